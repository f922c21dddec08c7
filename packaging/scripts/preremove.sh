#!/bin/sh
# Takes the AppArmor profile away. What is in /etc/apparmor.d/local/adit is the administrator's and stays.
set -e

# "remove" from dpkg, 0 from rpm; else another version comes after this one.
case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac

if [ -f /etc/apparmor.d/adit ]; then
    if [ -d /sys/kernel/security/apparmor ] && command -v apparmor_parser >/dev/null; then
        apparmor_parser --remove /etc/apparmor.d/adit || true
    fi
    rm -f /etc/apparmor.d/adit
fi
