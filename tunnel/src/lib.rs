//! HBONE over rustls and h2: client, server, pool, drain.
