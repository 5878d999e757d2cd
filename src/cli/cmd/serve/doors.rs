//! Opening the doors, and answering at them until told to stop.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use super::super::super::output::Failure;
use super::signals::{self, Told};
use crate::config::Config;
use crate::http::tls::Certificate;
use crate::http::{self, Drained, HttpLimits};
use crate::service::Service;

/// How long threads of the runtime may take to end once the doors are shut.
const RUNTIME_TIME: Duration = Duration::from_secs(1);

/// Sockets that listen, before anybody answers.
pub(super) struct Doors {
    main: TcpListener,
    telemetry: Option<TcpListener>,
    certificate: Option<Arc<Certificate>>,
    /// Where clients connect; the port is known by now.
    pub(super) address: SocketAddr,
    /// Where health and metrics are, if apart.
    pub(super) telemetry_address: Option<SocketAddr>,
}

impl Doors {
    /// Listens where `config` says.
    ///
    /// # Errors
    /// An address is taken, or is not one of this machine.
    pub(super) fn open(config: &Config, certificate: Option<Arc<Certificate>>) -> Result<Doors, Failure> {
        let (main, address) = listen("listen", config.listen)?;
        let telemetry = config.metrics_listen.map(|at| listen("metrics_listen", at)).transpose()?;
        let telemetry_address = telemetry.as_ref().map(|(_, address)| *address);
        let telemetry = telemetry.map(|(listener, _)| listener);
        Ok(Doors { main, telemetry, certificate, address, telemetry_address })
    }

    /// `http://…` or `https://…`.
    pub(super) fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

fn listen(key: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let open = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    open().map_err(|error: io::Error| {
        Failure::new(
            format!("cannot listen on {address}: {error}"),
            format!("is another server running there? `{key}` takes another address"),
        )
    })
}

/// Answers until a signal, or until the store has stopped.
///
/// # Errors
/// The runtime cannot start, or accepting fails for good.
pub(super) fn answer(
    doors: Doors,
    limits: HttpLimits,
    service: &Service,
    ready: impl FnOnce(),
) -> Result<Drained, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::new(
            format!("no threads for the server: {error}"),
            "raise the limit of processes (ulimit -u)",
        )
    })?;
    let address = doors.address;
    let answered = runtime.block_on(async {
        let Told { stop, cut } = signals::listen(service.clone(), doors.certificate.clone())?;
        let stop = async move { drop(stop.await) };
        let serving = serve(doors, service.clone(), limits, stop);
        ready();
        // Dropping `serving` lets go of its connections; the end of the runtime then closes them.
        let ended = tokio::select! {
            ended = serving => ended,
            Ok(()) = cut => Ok(Drained::Cut),
        };
        ended.map_err(|error| {
            Failure::new(
                format!("{address} cannot be served: {error}"),
                "start again; see the log for what came before",
            )
        })
    });
    runtime.shutdown_timeout(RUNTIME_TIME);
    answered
}

/// Hands the doors to the HTTP server.
async fn serve(
    doors: Doors,
    service: Service,
    limits: HttpLimits,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Drained> {
    let doors = http::Doors {
        main: tokio::net::TcpListener::from_std(doors.main)?,
        telemetry: doors.telemetry.map(tokio::net::TcpListener::from_std).transpose()?,
        tls: doors.certificate.map(|certificate| certificate.server_config()),
    };
    http::serve(doors, service, limits, stop).await
}
