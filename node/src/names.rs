//! Where the C library of a static executable looks names up.
//!
//! The C library asks the services that `/etc/nsswitch.conf` names, each a shared library that it loads. In an executable
//! that has the library in itself these would be of another C library, the machine's, and bring that along: two C
//! libraries in one process, whose insides don't fit. Files and DNS it has itself.

/// Has host names looked up in `/etc/hosts` and in DNS, and users in `/etc/passwd`, whatever `/etc/nsswitch.conf` says.
///
/// To be called first thing, while the process has one thread: a service that was loaded before stays. In a dynamic
/// executable it does nothing: there the machine's services are of the machine's C library, which is the one in use.
pub fn look_up_without_modules() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    for (database, services) in [(c"hosts", c"files dns"), (c"passwd", c"files")] {
        configure(database, services);
    }
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
#[expect(unsafe_code, reason = "a function of the C library that no crate has")]
fn configure(database: &std::ffi::CStr, services: &std::ffi::CStr) {
    use std::ffi::{c_char, c_int};

    unsafe extern "C" {
        /// `<nss.h>`: 0, or -1 for a database that doesn't exist or services that can't be parsed.
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
    // SAFETY: both are C strings that outlive the call; the C library copies what it keeps.
    // JUSTIFICATION: glibc has no other way to choose services but the file, which is the machine's. musl has none to
    // choose, and docs/adr/0030 says why it isn't used.
    let failed = unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    debug_assert_eq!(
        failed, 0,
        "{database:?} is a database, and {services:?} are services"
    );
}
