//! The pod's kernel: smoltcp with its usual face, one interface with the pod's addresses.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Tick;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};

pub(crate) struct Kernel {
    interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    pub(crate) device: Wire,
    rings: usize,
    listeners: HashMap<u16, SocketHandle>,
}

/// What the other end is to acknowledge.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owed {
    /// Bytes, whether a FIN follows or not.
    Bytes,
    OnlyFin,
}

#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) mtu: usize,
    pub(crate) incoming: VecDeque<Vec<u8>>,
    pub(crate) outgoing: VecDeque<Vec<u8>>,
}

impl Kernel {
    pub(crate) fn new(addresses: &[IpAddr], mtu: usize, rings: usize, seed: u64) -> Self {
        let mut device = Wire {
            mtu,
            ..Wire::default()
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, Tick::ZERO);
        interface.update_ip_addrs(|list| {
            for &address in addresses {
                list.push(IpCidr::new(
                    IpAddress::from(address),
                    if address.is_ipv4() { 32 } else { 128 },
                ))
                .unwrap();
            }
        });
        Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            device,
            rings,
            listeners: HashMap::new(),
        }
    }

    fn fresh(&self) -> Socket<'static> {
        let ring = || SocketBuffer::new(vec![0; self.rings]);
        let mut socket = Socket::new(ring(), ring());
        socket.set_nagle_enabled(false);
        socket
    }

    pub(crate) fn connect(&mut self, from: SocketAddr, to: SocketAddr) -> SocketHandle {
        let mut socket = self.fresh();
        socket
            .connect(
                self.interface.context(),
                IpEndpoint::from(to),
                IpEndpoint::from(from),
            )
            .unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn listen(&mut self, port: u16) {
        let mut socket = self.fresh();
        socket.listen(IpListenEndpoint::from(port)).unwrap();
        let handle = self.sockets.add(socket);
        self.listeners.insert(port, handle);
    }

    /// The connection that came to `port`, if one did; another listener takes its place.
    pub(crate) fn accepted(&mut self, port: u16) -> Option<SocketHandle> {
        let handle = self.listeners[&port];
        let state = self.sockets.get::<Socket<'_>>(handle).state();
        if matches!(state, State::Listen | State::SynReceived) {
            return None;
        }
        self.listen(port);
        Some(handle)
    }

    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// The connections of which something is unacknowledged, by their ends, the pod's first.
    pub(crate) fn owing(&self) -> Vec<((SocketAddr, SocketAddr), Owed)> {
        let address = |end: IpEndpoint| SocketAddr::new(end.addr.into(), end.port);
        let mut owing = Vec::new();
        for (_, socket) in self.sockets.iter() {
            let smoltcp::socket::Socket::Tcp(socket) = socket;
            let has_fin = matches!(socket.state(), State::FinWait1 | State::Closing | State::LastAck);
            let owed = match (socket.send_queue(), has_fin) {
                (1.., _) => Owed::Bytes,
                (0, true) => Owed::OnlyFin,
                (0, false) => continue,
            };
            if let (Some(local), Some(remote)) = (socket.local_endpoint(), socket.remote_endpoint()) {
                owing.push(((address(local), address(remote)), owed));
            }
        }
        owing
    }

    pub(crate) fn poll(&mut self, now: Tick) {
        self.interface.poll(now, &mut self.device, &mut self.sockets);
    }

    pub(crate) fn poll_at(&mut self, now: Tick) -> Option<Tick> {
        self.interface.poll_at(now, &self.sockets)
    }
}

impl Device for Wire {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: Tick) -> Option<(In, Out<'_>)> {
        let frame = self.incoming.pop_front()?;
        Some((In(frame), Out(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Tick) -> Option<Out<'_>> {
        Some(Out(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum.tcp = Checksum::Both;
        capabilities
    }
}

pub(crate) struct In(Vec<u8>);

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(crate) struct Out<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}
