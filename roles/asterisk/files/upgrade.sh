# Stops Asterisk at an instant without a call, and runs a command while it is stopped:
#   sh upgrade.sh SECONDS "when convenient"|gracefully give_up|restart COMMAND…
# Exit status 3: there was no such instant in so many seconds. Who runs it starts Asterisk again, whatever comes of it.
set -eu
seconds=$1 how=$2 at_deadline=$3
shift 3

# Meanwhile nothing else starts it: not systemd, for which each end is one to restart after, nor the package.
hold=/run/systemd/system/asterisk.service.d/upgrade.conf
mkdir -p "${hold%/*}"
printf '[Unit]\nConditionPathExists=!%s\n[Service]\nRestart=no\n' "$hold" >"$hold"
systemctl daemon-reload

# Asterisk itself waits, so that no call begins between the look and the stop. The console ends with it, or when somebody
# aborts the shutdown.
timeout "$seconds" asterisk -rx "core stop $how" || true
if systemctl --quiet is-active asterisk && [ "$at_deadline" = give_up ]; then
    exit 3
fi
systemctl stop asterisk
"$@"
