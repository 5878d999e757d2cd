//! What a run needs before and after its load: tenants, keys, the size of a log.

use std::net::SocketAddr;

use serde_json::{Value, json};
use varve::tlog::key::VerifyingKey;

use crate::Fault;
use crate::wire::{Broken, Connection};

/// Tenants of one run.
pub const MAX_TENANTS: usize = 10_000;

/// A log that load goes to.
pub struct Log {
    /// The tenant.
    pub tenant: String,
    /// A key with the scopes `ingest` and `read`. Never shown.
    pub key: String,
    /// The origin of the log, which its public key names.
    pub origin: String,
    /// The log's public key.
    pub public_key: VerifyingKey,
}

#[cfg(test)]
impl Log {
    pub(crate) fn for_tests(tenant: &str) -> Log {
        use varve::tlog::key::{SeedSigner, Signer as _};
        let signer = SeedSigner::from_seed(&[1; 32]);
        Log {
            tenant: tenant.to_owned(),
            key: "varve_key".to_owned(),
            origin: format!("test.local/{tenant}"),
            public_key: signer.verifying_key(),
        }
    }
}

/// A connection for requests that are few.
pub struct Admin {
    address: SocketAddr,
    connection: Connection,
}

impl Admin {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn open(address: SocketAddr) -> Result<Admin, Fault> {
        let connection = Connection::open(address).await;
        let connection =
            connection.map_err(|error| Fault::unable(format!("cannot connect to {address}: {error}")))?;
        Ok(Admin { address, connection })
    }

    /// Makes `count` tenants that nobody has used, with a key each.
    ///
    /// # Errors
    /// The key is not the operator's, or the server refuses.
    pub async fn make_logs(
        &mut self,
        operator_key: &str,
        run: &str,
        count: usize,
    ) -> Result<Vec<Log>, Fault> {
        let mut logs = Vec::with_capacity(count);
        for nth in 0..count {
            let tenant = format!("load-{run}-{nth}");
            let body = json!({"tenant": tenant});
            self.call("POST", "/v1/tenants", operator_key, Some(&body), 201).await?;
            let path = format!("/v1/tenants/{tenant}");
            let shown = self.call("GET", &path, operator_key, None, 200).await?;
            let vkey = shown["public_key"].as_str().unwrap_or_default();
            let (origin, public_key) = VerifyingKey::parse_vkey(vkey).map_err(Fault::unable)?;
            if shown["origin"].as_str() != Some(origin.as_str()) {
                return Err(Fault::Broken(vec![format!("the public key of {tenant} is of another origin")]));
            }
            let key = self.make_key(operator_key, &tenant, &["ingest", "read"]).await?;
            logs.push(Log { tenant, key, origin, public_key });
        }
        Ok(logs)
    }

    /// Makes a key of a tenant.
    ///
    /// # Errors
    /// The key is not the operator's, or the server refuses.
    pub async fn make_key(
        &mut self,
        operator_key: &str,
        tenant: &str,
        scopes: &[&str],
    ) -> Result<String, Fault> {
        let body = json!({"name": "load", "scopes": scopes});
        let path = format!("/v1/tenants/{tenant}/keys");
        let made = self.call("POST", &path, operator_key, Some(&body), 201).await?;
        Ok(made["key"].as_str().unwrap_or_default().to_owned())
    }

    /// The tenant with the most entries, of those that are not Varve's own.
    ///
    /// # Errors
    /// The key is not the operator's, or there is none.
    pub async fn largest_tenant(&mut self, operator_key: &str) -> Result<String, Fault> {
        let page = self.call("GET", "/v1/tenants", operator_key, None, 200).await?;
        let size = |tenant: &Value| tenant["size"].as_u64().unwrap_or(0);
        let tenants = page["tenants"].as_array().into_iter().flatten();
        let foreign = tenants.filter_map(|tenant| Some((tenant["tenant"].as_str()?, size(tenant))));
        let largest = foreign.filter(|(name, _)| !name.starts_with('_')).max_by_key(|&(_, size)| size);
        largest.map(|(name, _)| name.to_owned()).ok_or_else(|| Fault::unable("the store has no tenants"))
    }

    /// Begins a compaction of everything that is due by the machine's clock. Answers its id.
    ///
    /// # Errors
    /// The key is not the operator's, or one runs already.
    pub async fn start_compaction(&mut self, operator_key: &str) -> Result<String, Fault> {
        let body = json!({"dry_run": false, "confirm_clock": true});
        let job = self.call("POST", "/v1/compactions", operator_key, Some(&body), 202).await?;
        job["id"].as_str().map(str::to_owned).ok_or_else(|| Fault::unable("a compaction has no id"))
    }

    /// How many entries the log has.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn size(&mut self, log: &Log) -> Result<u64, Fault> {
        let shown = self.call("GET", &format!("/v1/tenants/{}", log.tenant), &log.key, None, 200).await?;
        shown["size"].as_u64().ok_or_else(|| Fault::unable("a log has no size"))
    }

    /// Asks for `path` and returns the body of an answer of `status`.
    ///
    /// # Errors
    /// Another status, or no answer.
    pub async fn get(&mut self, path: &str, key: &str, status: u16) -> Result<Vec<u8>, Fault> {
        self.ask("GET", path, key, None, status).await
    }

    async fn call(
        &mut self,
        method: &str,
        path: &str,
        key: &str,
        body: Option<&Value>,
        status: u16,
    ) -> Result<Value, Fault> {
        let answer = self.ask(method, path, key, body, status).await?;
        serde_json::from_slice(&answer)
            .map_err(|_| Fault::unable(format!("{method} {path}: the answer is not JSON")))
    }

    async fn ask(
        &mut self,
        method: &str,
        path: &str,
        key: &str,
        body: Option<&Value>,
        status: u16,
    ) -> Result<Vec<u8>, Fault> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = self.exchange(&request).await;
        if method == "GET" && answer.is_err() {
            // A server closes what was idle for its time, or for a second when connections are scarce.
            *self = Admin::open(self.address).await?;
            answer = self.exchange(&request).await;
        }
        let (answered, body) =
            answer.map_err(|broken| Fault::unable(format!("{method} {path}: {broken}")))?;
        if answered != status {
            // A problem never repeats a value that was sent, so it can be shown.
            let said = String::from_utf8_lossy(&body);
            return Err(Fault::unable(format!("{method} {path}: {answered} {said}")));
        }
        Ok(body)
    }

    async fn exchange(&mut self, request: &str) -> Result<(u16, Vec<u8>), Broken> {
        let answer = self.connection.exchange(request.as_bytes()).await?;
        Ok((answer.head.status, answer.body().to_vec()))
    }
}
