//! One connection to the service: the request, and then the session of one end of a tunnel.

use super::super::seeded::Seeded;
use super::message::{self, Message};
use super::request::{self, Request, SUBPROTOCOLS};
use super::rules::Rules;
use super::state::{Announce, Handle, Handshake, Live, Mode, Names, Order, Out, Reply, Shape};
use super::websocket::{self, BINARY, CLOSE, CONTINUATION, MAX_MESSAGE, PING, PONG, Reader, TEXT, goodbye};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Frames that wait for an end before the other one is read no more.
const WAITING: usize = 64;

/// Written at once.
const BATCH: usize = 256 * 1024;

type Socket = TlsStream<TcpStream>;

pub async fn serve(shared: Handle, acceptor: TlsAcceptor, socket: TcpStream) {
    let _ = socket.set_nodelay(true);
    let reply = shared.with(|state| {
        state.connections += 1;
        state.replies.pop_front().unwrap_or_else(|| state.reply.clone())
    });
    match reply {
        Reply::Refuse => return record(&shared, 0, None, "refused before TLS"),
        Reply::Silent => {
            record(&shared, 0, None, "TLS never begins");
            return until_gone(socket).await;
        }
        _ => {}
    }
    let Ok(mut socket) = acceptor.accept(socket).await else { return record(&shared, 0, None, "no TLS") };
    let mut buffer = BytesMut::with_capacity(8192);
    let head = match request::read(&mut socket, &mut buffer).await {
        Ok(Some(head)) => Ok(head),
        Ok(None) => return record(&shared, 0, None, "gone before a request"),
        Err(complaint) => Err(complaint),
    };
    let judged = head.and_then(|head| request::judge(&head));
    match (reply, judged) {
        (Reply::Hang, judged) => {
            record(&shared, 0, judged.ok(), "never answered");
            until_gone(socket).await;
        }
        (Reply::HangUp, judged) => {
            record(&shared, 0, judged.ok(), "hung up");
            let _ = socket.shutdown().await;
        }
        (Reply::Status(status, headers), judged) => {
            refuse(&shared, socket, status, &headers, judged.ok(), "as the test wants").await;
        }
        (_, Err(complaint)) => refuse(&shared, socket, 400, &[], None, &complaint).await,
        (_, Ok(request)) => {
            let admitted = shared.with(|state| state.admit(&request));
            match admitted {
                Ok(tunnel) => session(&shared, socket, buffer, tunnel, request).await,
                Err((status, complaint)) => refuse(&shared, socket, status, &[], Some(request), &complaint).await,
            }
        }
    }
}

fn record(shared: &Handle, status: u16, request: Option<Request>, complaint: &str) {
    let complaint = complaint.to_owned();
    shared.with(|state| state.handshakes.push(Handshake { at: Instant::now(), status, request, complaint }));
}

async fn refuse(
    shared: &Handle,
    mut socket: Socket,
    status: u16,
    headers: &[(String, String)],
    request: Option<Request>,
    complaint: &str,
) {
    record(shared, status, request, complaint);
    let channel = shared.with(|state| state.unique("channel-"));
    let _ = socket.write_all(request::refusal(status, &channel, headers).as_bytes()).await;
    let _ = socket.shutdown().await;
    until_gone(socket).await;
}

/// Whatever comes is thrown away.
async fn until_gone(mut socket: impl AsyncRead + Unpin) {
    let mut waste = [0; 4096];
    while let Ok(1..) = socket.read(&mut waste).await {}
}

/// What a session's two directions share.
struct Place {
    shared: Handle,
    tunnel: usize,
    mode: Mode,
    number: u64,
    /// Whoever sends something to the other end has this meanwhile.
    gate: Arc<Mutex<()>>,
}

async fn session(shared: &Handle, mut socket: Socket, already: BytesMut, tunnel: usize, request: Request) {
    let mode = request.mode;
    let (out, outgoing) = mpsc::channel(WAITING);
    let (order, mut orders) = watch::channel(Order::Go);
    let (channel, number, gate) = shared.with(|state| {
        replace(&mut state.tunnels[tunnel], mode);
        state.numbers += 1;
        (state.unique("channel-"), state.numbers, state.tunnels[tunnel].end(mode.other()).gate.clone())
    });
    // What the one before still had to say has been said, or is not said any more.
    let turn = gate.lock().await;
    let before = shared.with(|state| {
        replace(&mut state.tunnels[tunnel], mode);
        state.tunnels[tunnel].forsake(mode)
    });
    if let Some((other, resets)) = before {
        say_all(other, resets).await;
    }
    let version = request.offered.iter().find_map(|name| SUBPROTOCOLS.iter().position(|known| known == name)).unwrap();
    let (begin, reading, names) = shared.with(|state| {
        let tunnel = &mut state.tunnels[tunnel];
        let services = tunnel.services.clone();
        let end = tunnel.end(mode);
        end.live = Some(Live { number, out: out.clone(), order, rules: Rules::new(mode, version + 1, &services) });
        end.sessions += 1;
        let (knobs, reading, held) = (end.knobs.clone(), end.reading.subscribe(), std::mem::take(&mut end.held));
        tunnel.say(Some(mode), None, "connected");
        // Version 1 knows no services.
        let announced = if version == 0 { Vec::new() } else { announcements(&knobs.announce, &services) };
        announced.iter().for_each(|names| tunnel.say(None, Some(mode), names.to_string()));
        let begin: Vec<_> = announced.into_iter().map(|names| names.frame()).chain(held).collect();
        (begin, reading, knobs.names)
    });
    drop(turn);
    let name = match &names {
        Names::Offered => Some(SUBPROTOCOLS[version]),
        Names::Missing => None,
        Names::Another(name) => Some(name.as_str()),
    };
    let welcome = request::welcome(&request.key, &channel, name);
    record(shared, 101, Some(request), "");
    let place = Place { shared: shared.clone(), tunnel, mode, number, gate };
    if socket.write_all(welcome.as_bytes()).await.is_err() || socket.flush().await.is_err() {
        return leave(&place).await;
    }
    let mut how = Order::Go;
    let (mut read, mut write) = tokio::io::split(socket);
    tokio::select! {
        () = receive(&place, &mut read, already, reading, &out) => {}
        () = send(&place, &mut write, begin, outgoing) => {}
        Ok(order) = orders.wait_for(|order| *order == Order::Abort) => how = *order,
    }
    let mut socket = read.unsplit(write);
    if how == Order::Abort {
        let _ = socket2::SockRef::from(socket.get_ref().0).set_linger(Some(Duration::ZERO));
        drop(socket);
        leave(&place).await;
    } else {
        leave(&place).await;
        let _ = socket.shutdown().await;
        let _ = tokio::time::timeout(Duration::from_secs(10), until_gone(socket)).await;
    }
}

/// Ends the session that is there.
fn replace(tunnel: &mut super::state::Tunnel, mode: Mode) {
    let end = tunnel.end(mode);
    let Some(old) = end.live.take() else { return };
    let goodbye = Out::Raw(websocket::frame(true, CLOSE, &goodbye(1000, "replaced")));
    if !end.knobs.close_replaced || old.out.try_send(goodbye).is_err() || old.out.try_send(Out::End).is_err() {
        let _ = old.order.send(Order::Abort);
    }
    tunnel.say(Some(mode), None, "replaced");
}

fn announcements(announce: &Announce, services: &[String]) -> Vec<Message> {
    match announce {
        Announce::Once => vec![Message::services(services)],
        Announce::Empty => vec![Message::services(&[])],
        Announce::Never => Vec::new(),
        Announce::Twice(then) => vec![Message::services(services), Message::services(then)],
    }
}

async fn say_all(to: mpsc::Sender<Out>, messages: Vec<Message>) {
    for message in messages {
        let _ = to.send(Out::Frame(message.frame())).await;
    }
}

/// The session is over.
async fn leave(place: &Place) {
    let _turn = place.gate.lock().await;
    let resets = place.shared.with(|state| {
        let tunnel = &mut state.tunnels[place.tunnel];
        if !place.is_live(tunnel) {
            return None;
        }
        tunnel.end(place.mode).live = None;
        tunnel.say(Some(place.mode), None, "gone");
        tunnel.forsake(place.mode)
    });
    if let Some((to, resets)) = resets {
        say_all(to, resets).await;
    }
}

impl Place {
    /// It has not been replaced.
    fn is_live(&self, tunnel: &mut super::state::Tunnel) -> bool {
        tunnel.end(self.mode).live.as_ref().is_some_and(|live| live.number == self.number)
    }
}

/// Everything that an end sends.
async fn receive(
    place: &Place,
    from: &mut (impl AsyncRead + Unpin),
    already: BytesMut,
    mut reading: watch::Receiver<bool>,
    out: &mpsc::Sender<Out>,
) {
    let mut reader = Reader::of_clients(already);
    let (mut stream, mut message) = (BytesMut::new(), None::<usize>);
    let closed = |code: Option<u16>| {
        place.shared.with(|state| {
            let tunnel = &mut state.tunnels[place.tunnel];
            tunnel.end(place.mode).closed.push(code);
            tunnel.say(
                Some(place.mode),
                None,
                code.map_or("end of the connection".into(), |code| format!("close {code}")),
            );
        });
    };
    loop {
        if reading.wait_for(|reading| *reading).await.is_err() {
            return;
        }
        let next = tokio::select! {
            biased;
            _ = reading.changed() => continue,
            next = reader.next(from) => next,
        };
        let frame = match next {
            Ok(Some(frame)) => frame,
            Ok(None) => return closed(None),
            Err(why) if why.starts_with("lost") => return closed(None),
            Err(why) => return violation(place, out, &why).await,
        };
        match frame.opcode {
            PING => {
                let answer = place.shared.with(|state| {
                    let end = state.tunnels[place.tunnel].end(place.mode);
                    end.ping_payloads.push(Bytes::copy_from_slice(&frame.payload));
                    end.knobs.pongs
                });
                if answer {
                    let _ = out.send(Out::Raw(websocket::frame(true, PONG, &frame.payload))).await;
                }
            }
            PONG => place.shared.with(|state| {
                state.tunnels[place.tunnel].end(place.mode).pongs.push(frame.payload.freeze());
            }),
            CLOSE => {
                let code = frame.payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                closed(Some(code.unwrap_or(1005)));
                let _ = out.send(Out::Raw(websocket::frame(true, CLOSE, &frame.payload))).await;
                let _ = out.send(Out::End).await;
                // The other direction ends the connection.
                return std::future::pending().await;
            }
            TEXT => return violation(place, out, "a text message").await,
            opcode => {
                if (opcode == CONTINUATION) != message.is_some() {
                    return violation(place, out, "fragments out of turn").await;
                }
                let size = message.unwrap_or(0) + frame.payload.len();
                if size > MAX_MESSAGE {
                    return violation(place, out, "a message of more than 131076 bytes").await;
                }
                message = (!frame.last).then_some(size);
                if stream.is_empty() {
                    stream = frame.payload;
                } else {
                    stream.extend_from_slice(&frame.payload);
                }
                while let Some((bytes, said)) = message::take_frame(&mut stream) {
                    match said {
                        Ok(said) => {
                            if !relay(place, &said, bytes).await {
                                return violation(place, out, "").await;
                            }
                        }
                        Err(why) => return violation(place, out, &why).await,
                    }
                }
            }
        }
    }
}

/// Passes a frame on. `false`: the session must end.
async fn relay(place: &Place, said: &Message, bytes: Bytes) -> bool {
    let control = said.kind != message::DATA;
    let _turn = place.gate.lock().await;
    let (to, fine) = {
        let mut state = place.shared.lock();
        let tunnel = &mut state.tunnels[place.tunnel];
        if !place.is_live(tunnel) {
            return true;
        }
        let (to, fine) = tunnel.sent(place.mode, said);
        if to.is_none() {
            let other = tunnel.end(place.mode.other());
            if other.knobs.hold {
                other.held.push_back(bytes.clone());
            }
        }
        (to, fine)
    };
    // Only who waits for a condition is woken, and nobody waits for bytes at the price of each frame.
    if control {
        place.shared.with(|_| ());
    }
    if let Some(to) = to {
        let _ = to.send(Out::Frame(bytes)).await;
    }
    fine
}

async fn violation(place: &Place, out: &mpsc::Sender<Out>, why: &str) {
    if !why.is_empty() {
        place.shared.with(|state| {
            state.tunnels[place.tunnel].violations.push(format!("{}: {why}", place.mode.as_str()));
        });
    }
    let _ = out.send(Out::Raw(websocket::frame(true, CLOSE, &goodbye(1002, "")))).await;
    let _ = out.send(Out::End).await;
    std::future::pending().await
}

/// Everything that an end is sent.
async fn send(place: &Place, to: &mut (impl AsyncWrite + Unpin), begin: Vec<Bytes>, mut outgoing: mpsc::Receiver<Out>) {
    let mut chance = Seeded::new(place.shared.with(|state| {
        state.seed += 1;
        state.seed
    }));
    let (mut batch, mut stream) = (BytesMut::new(), BytesMut::new());
    let mut begin = begin.into_iter();
    loop {
        let mut next = match begin.next() {
            Some(frame) => Out::Frame(frame),
            None => match outgoing.recv().await {
                Some(next) => next,
                None => return,
            },
        };
        let shape = place.shared.lock().tunnels[place.tunnel].end(place.mode).knobs.shape;
        let over = loop {
            match next {
                Out::Frame(frame) => match shape {
                    Shape::Whole => {
                        websocket::put_head(&mut batch, true, BINARY, frame.len());
                        batch.put(frame);
                    }
                    Shape::Fragments(most) => {
                        let pieces: Vec<_> = frame.chunks(most.max(1)).collect();
                        for (number, piece) in pieces.iter().enumerate() {
                            let opcode = if number == 0 { BINARY } else { CONTINUATION };
                            batch.put(websocket::frame(number + 1 == pieces.len(), opcode, piece));
                        }
                    }
                    Shape::Cut | Shape::Merged => stream.put(frame),
                },
                Out::Raw(bytes) => {
                    lay(&mut batch, &mut stream, shape, &mut chance);
                    batch.put(bytes);
                }
                Out::End => break true,
            }
            if batch.len() + stream.len() >= BATCH {
                break false;
            }
            match outgoing.try_recv() {
                Ok(more) => next = more,
                Err(_) if shape == Shape::Merged && !stream.is_empty() => {
                    // There is more in a moment, and it shall come in one message.
                    match tokio::time::timeout(Duration::from_millis(5), outgoing.recv()).await {
                        Ok(Some(more)) => next = more,
                        _ => break false,
                    }
                }
                Err(_) => break false,
            }
        };
        lay(&mut batch, &mut stream, shape, &mut chance);
        if to.write_all(&batch).await.is_err() || to.flush().await.is_err() || over {
            return;
        }
        batch.clear();
    }
}

/// Lays a stretch of the byte stream into messages.
fn lay(batch: &mut BytesMut, stream: &mut BytesMut, shape: Shape, chance: &mut Seeded) {
    while !stream.is_empty() {
        let most = stream.len().min(MAX_MESSAGE);
        let size = if shape == Shape::Cut { 1 + chance.below(most as u64) as usize } else { most };
        let piece = stream.split_to(size);
        websocket::put_head(batch, true, BINARY, piece.len());
        batch.put(piece);
    }
}
