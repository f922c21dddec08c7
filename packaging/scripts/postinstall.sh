#!/bin/sh
# Loads the AppArmor profile where AppArmor understands it, from 4.0 on. Older ones restrict no user namespaces, and a
# profile in /etc/apparmor.d that they can't read would have their service fail at the next start.
set -e

# "configure" from dpkg; 1 for the first and 2 for another version from rpm.
case "$1" in
configure | 1 | 2) ;;
*) exit 0 ;;
esac

profile=/usr/share/adit/apparmor/adit
if command -v apparmor_parser >/dev/null && [ -d /etc/apparmor.d ] &&
    apparmor_parser --skip-kernel-load --skip-cache "$profile" >/dev/null 2>&1; then
    cp "$profile" /etc/apparmor.d/adit
    chmod 0644 /etc/apparmor.d/adit
    # Not in a container or a chroot: the host's profiles are the host's.
    if [ -d /sys/kernel/security/apparmor ]; then
        apparmor_parser --replace --write-cache /etc/apparmor.d/adit ||
            echo "adit: AppArmor didn't take /etc/apparmor.d/adit; adit check says what is missing" >&2
    fi
fi
