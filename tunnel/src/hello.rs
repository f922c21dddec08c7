//! The first bytes of a tunnel, looked at before it's accepted.

use rustls::server::Acceptor;

/// What the first bytes of a connection say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// A ClientHello, and the server name that it asks for, if any.
    Complete(Option<String>),
    /// The beginning of one.
    Incomplete,
    /// Something else.
    Invalid,
}

/// Reads a TLS ClientHello (RFC 8446 §4.1.2) from the first bytes of a connection, all of them each time. Takes
/// nothing from the connection: [`serve`](crate::serve()) reads the same bytes again and answers what is wrong in them.
pub fn read_hello(first_bytes: &[u8]) -> Hello {
    let mut acceptor = Acceptor::default();
    let mut unread = first_bytes;
    loop {
        match acceptor.read_tls(&mut unread) {
            Ok(0) => return Hello::Incomplete,
            Ok(_) => {}
            Err(_) => return Hello::Invalid,
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Hello::Complete(accepted.client_hello().server_name().map(str::to_owned));
            }
            Ok(None) => {}
            Err(_) => return Hello::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn client_hello(name: &'static str) -> Vec<u8> {
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("the provider has them")
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
        let name = ServerName::try_from(name).expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("memory takes all");
        bytes
    }

    #[test]
    fn the_server_name_is_read_once_the_hello_is_whole() {
        let hello = client_hello("web.example");
        for length in 0..hello.len() {
            assert_eq!(read_hello(&hello[..length]), Hello::Incomplete, "{length} bytes");
        }
        let named = Hello::Complete(Some("web.example".to_owned()));
        assert_eq!(read_hello(&hello), named);
        let more = [hello.as_slice(), b"what follows"].concat();
        assert_eq!(read_hello(&more), named);
    }

    #[test]
    fn a_hello_for_an_address_has_no_name() {
        assert_eq!(read_hello(&client_hello("192.0.2.1")), Hello::Complete(None));
    }

    #[test]
    fn other_bytes_are_invalid() {
        assert_eq!(read_hello(b"GET / HTTP/1.1\r\n\r\n"), Hello::Invalid);
    }
}
