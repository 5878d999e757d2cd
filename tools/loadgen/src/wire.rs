//! One HTTP/1.1 connection: a request out, an answer in, nothing copied twice.
//!
//! Reading goes on while a request is still being sent, because a server may refuse a body that it has not read.
//! Limits: an answer of [`MAX_ANSWER_BYTES`]; a `Content-Length` (Varve says it always); no pipelining.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

/// Longest answer that is read: 1,000 records of a page with 64 KiB each.
pub const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Room for reading before the length of an answer is known.
const FIRST_READ_BYTES: usize = 8 << 10;

/// Headers of an answer; Varve sends fewer than ten.
const MAX_HEADERS: usize = 32;

/// An open connection.
pub struct Connection {
    stream: TcpStream,
    /// The answer; keeps its length between answers, so that it is filled with zeros once.
    buffer: Vec<u8>,
    filled: usize,
}

/// The head of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// Seconds of `Retry-After`, where there is one that can be read.
    pub retry_after_seconds: Option<u64>,
    /// Where the body begins.
    pub body_at: usize,
    /// Bytes of head and body together.
    pub length: usize,
    /// The server closes the connection after this answer.
    pub is_last: bool,
}

/// An answer as it came.
pub struct Answer<'a> {
    /// What its head says.
    pub head: Head,
    /// Head and body.
    pub raw: &'a [u8],
}

impl Answer<'_> {
    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.raw[self.head.body_at..]
    }
}

/// An exchange that brought no answer.
#[derive(Debug)]
pub enum Broken {
    /// The connection ended before the answer did.
    Closed,
    /// The socket failed.
    Socket(io::Error),
    /// What came is no answer that this client reads.
    Malformed(&'static str),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Closed => f.write_str("the connection was closed without an answer"),
            Broken::Socket(error) => write!(f, "the connection failed: {error}"),
            Broken::Malformed(what) => write!(f, "the answer cannot be read: {what}"),
        }
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// As the socket's.
    pub async fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::new(), filled: 0 })
    }

    /// Sends `request` and reads the answer to it.
    ///
    /// # Errors
    /// [`Broken`]; the connection is of no further use then.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>, Broken> {
        self.filled = 0;
        let mut sent = 0;
        let mut head = None;
        let mut head = poll_fn(|context| self.poll_exchange(context, request, &mut sent, &mut head)).await?;
        // An answer to half a request: the rest would be read as the next one.
        head.is_last |= sent < request.len();
        Ok(Answer { head, raw: &self.buffer[..head.length] })
    }

    /// Whether the server has closed it since the last answer, as it may do with what is idle. Bytes that nobody
    /// asked for count as closed too: what follows them could not be told apart from an answer.
    pub fn is_closed(&self) -> bool {
        let read = self.stream.try_read(&mut [0; 1]);
        !read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn poll_exchange(
        &mut self,
        context: &mut Context<'_>,
        request: &[u8],
        sent: &mut usize,
        head: &mut Option<Head>,
    ) -> Poll<Result<Head, Broken>> {
        while *sent < request.len() {
            match Pin::new(&mut self.stream).poll_write(context, &request[*sent..]) {
                Poll::Ready(Ok(count)) => *sent += count,
                // The server has gone, but it may have answered before.
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        loop {
            let wanted = head.map_or(self.filled + FIRST_READ_BYTES, |head| head.length);
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            let mut space = ReadBuf::new(&mut self.buffer[self.filled..]);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut space)).map_err(Broken::Socket)?;
            let count = space.filled().len();
            if count == 0 {
                return Poll::Ready(Err(Broken::Closed));
            }
            self.filled += count;
            if head.is_none() {
                *head = parse(&self.buffer[..self.filled]).map_err(Broken::Malformed)?;
            }
            if let Some(head) = head {
                if self.filled > head.length {
                    return Poll::Ready(Err(Broken::Malformed("more came than its length says")));
                }
                if self.filled == head.length {
                    return Poll::Ready(Ok(*head));
                }
            }
        }
    }
}

/// Reads the head at the start of `bytes`; `None` when it is not complete.
///
/// # Errors
/// What cannot be read.
pub fn parse(bytes: &[u8]) -> Result<Option<Head>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let body_at = match response.parse(bytes) {
        Ok(httparse::Status::Complete(body_at)) => body_at,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_ANSWER_BYTES => return Ok(None),
        Ok(httparse::Status::Partial) => return Err("its head does not end"),
        Err(_) => return Err("its head is not HTTP/1.1"),
    };
    let status = response.code.unwrap_or(0);
    let number = |value: &[u8]| std::str::from_utf8(value).ok()?.trim().parse::<u64>().ok();
    let (mut length, mut retry_after_seconds, mut is_last) = (None, None, response.version == Some(0));
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            length = number(header.value);
        } else if header.name.eq_ignore_ascii_case("retry-after") {
            retry_after_seconds = number(header.value);
        } else if header.name.eq_ignore_ascii_case("connection") {
            is_last |= header.value.eq_ignore_ascii_case(b"close");
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("it comes in chunks, and this client reads a Content-Length alone");
        }
    }
    let length = match (length, status) {
        (_, 204 | 304) => 0,
        (Some(length), _) => usize::try_from(length).unwrap_or(usize::MAX),
        (None, _) => return Err("it has no Content-Length"),
    };
    if length > MAX_ANSWER_BYTES {
        return Err("it is over 64 MiB");
    }
    Ok(Some(Head { status, retry_after_seconds, body_at, length: body_at + length, is_last }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_status_length_and_when_to_come_back() {
        let raw = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 7\r\nContent-Length: 2\r\n\r\n{}";
        let head = parse(raw).unwrap().unwrap();
        assert_eq!((head.status, head.retry_after_seconds, head.is_last), (503, Some(7), false));
        assert_eq!((head.body_at, head.length), (raw.len() - 2, raw.len()));
        for cut in 0..head.body_at {
            assert_eq!(parse(&raw[..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn answers_that_cannot_be_framed_are_refused() {
        let of = |head: &str| parse(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes());
        assert!(of("200 OK").is_err());
        assert!(of("200 OK\r\ncontent-length: x").is_err());
        assert!(of("200 OK\r\ncontent-length: 99999999999").is_err());
        assert!(of("200 OK\r\ntransfer-encoding: chunked").is_err());
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
        assert!(of("200 OK\r\ncontent-length: 0\r\nconnection: close").unwrap().unwrap().is_last);
        assert_eq!(of("204 No Content").unwrap().unwrap().length, "HTTP/1.1 204 No Content\r\n\r\n".len());
    }

    async fn served(answer: &'static [u8], parts: usize) -> Result<(u16, Vec<u8>, bool), String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut byte = [0; 1];
            stream.read_exact(&mut byte).await.unwrap();
            for part in answer.chunks(answer.len().div_ceil(parts).max(1)) {
                stream.write_all(part).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            stream.shutdown().await.unwrap();
            // Not read to the end: what a server does that refuses a body.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        let client = async {
            let mut connection = Connection::open(address).await.unwrap();
            let request = vec![b'x'; 32 << 20];
            let answer = connection.exchange(&request).await.map_err(|broken| broken.to_string())?;
            Ok((answer.head.status, answer.body().to_vec(), answer.head.is_last))
        };
        tokio::join!(server, client).1
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_before_the_end_of_the_request_is_read() {
        let answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nhello";
        for parts in [1, 7] {
            assert_eq!(served(answer, parts).await, Ok((413, b"hello".to_vec(), true)));
        }
        assert!(served(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel", 1).await.is_err());
        assert!(served(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhello", 1).await.is_err());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_that_the_server_closed_is_known() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = Connection::open(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert!(!connection.is_closed());
        drop(stream);
        while !connection.is_closed() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}
