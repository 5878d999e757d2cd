//! Listening, and stopping in order: no new connections, what runs may end, bounded.

use std::future::{Future, IntoFuture};
use std::io;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::router;
use crate::service::Service;

/// How long requests that are under way may take once the server was told to stop.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);

/// How serving ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drained {
    /// Every request under way was answered.
    Fully,
    /// [`DRAIN_TIME`] ran out; some connections were cut.
    Cut,
}

/// Serves `service` on `listener` until `stop` resolves, then drains. The store is not stopped: that is the
/// caller's next step.
///
/// # Errors
/// When accepting fails for good.
pub async fn serve(
    listener: TcpListener,
    service: Service,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Drained> {
    let (stopping, stopped) = oneshot::channel::<()>();
    // Answers are small and written at once; waiting to fill a packet only adds 40 ms.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let drained = service.clone();
    let server = axum::serve(listener, router(service)).with_graceful_shutdown(async move {
        stop.await;
        drained.begin_stop();
        // The receiver is gone only when the server has ended by itself.
        let _ = stopping.send(());
    });
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        ended = &mut server => return ended.map_err(io::Error::other)?.map(|()| Drained::Fully),
        _ = stopped => {}
    }
    match tokio::time::timeout(DRAIN_TIME, &mut server).await {
        Ok(ended) => ended.map_err(io::Error::other)?.map(|()| Drained::Fully),
        Err(_) => {
            server.abort();
            Ok(Drained::Cut)
        }
    }
}
