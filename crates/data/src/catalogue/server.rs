//! A small HTTP/1.1 server on 127.0.0.1 for the tests of downloads: serves what a closure says, one connection a request.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// An answer; `send` bytes of the body go out before the connection is closed.
pub(super) struct Answer {
    pub head: String,
    pub body: Vec<u8>,
    pub send: usize,
}

impl Answer {
    /// `status` with the whole body and its length.
    pub(super) fn new(status: &str, mime: &str, body: &[u8]) -> Self {
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {mime}\r\nContent-Length: {}\r\n", body.len());
        Answer { head, body: body.to_vec(), send: body.len() }
    }

    /// The whole file, whatever was asked for.
    pub(super) fn whole(file: &[u8]) -> Self {
        Answer::new("200 OK", "application/x-gzip", file)
    }

    /// The file from byte `start` on, as a server does that understands `Range`.
    pub(super) fn from(file: &[u8], start: Option<usize>) -> Self {
        let Some(start) = start else { return Answer::whole(file) };
        let mut answer = Answer::new("206 Partial Content", "application/x-gzip", &file[start..]);
        answer.head += &format!("Content-Range: bytes {start}-{}/{}\r\n", file.len() - 1, file.len());
        answer
    }

    /// Breaks off after `send` bytes of the body.
    pub(super) fn cut(self, send: usize) -> Self {
        Answer { send: send.min(self.body.len()), ..self }
    }
}

/// Runs until it is dropped.
pub(super) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Option<usize>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// `answer` is given the number of the request, from 0, and the first byte asked for, if any.
    pub(super) fn start(mut answer: impl FnMut(usize, Option<usize>) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, stopped) = (Arc::clone(&requests), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Some((mut stream, start)) = stream.ok().and_then(read_request) else { continue };
                let number = log.lock().unwrap().len();
                log.lock().unwrap().push(start);
                let answer = answer(number, start);
                // A client that has seen enough hangs up: that is its right.
                let _ = stream.write_all(format!("{}Connection: close\r\n\r\n", answer.head).as_bytes());
                let _ = stream.write_all(&answer.body[..answer.send]);
            }
        });
        Server { address, requests, stop, thread: Some(thread) }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/archive.tar.gz", self.address)
    }

    /// The first byte that each request so far asked for.
    pub(super) fn requests(&self) -> Vec<Option<usize>> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the thread up
        self.thread.take().map(JoinHandle::join);
    }
}

/// The connection and the start of `Range: bytes=START-`.
fn read_request(stream: TcpStream) -> Option<(TcpStream, Option<usize>)> {
    let mut start = None;
    for line in BufReader::new(stream.try_clone().ok()?).lines() {
        let line = line.ok()?.to_ascii_lowercase();
        if line.is_empty() {
            return Some((stream, start));
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range.strip_suffix('-')?.parse().ok();
        }
    }
    None
}
