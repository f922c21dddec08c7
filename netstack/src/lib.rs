//! Frames in, flows out: the userspace TCP/IP stack. Pure.
