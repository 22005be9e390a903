# Takes out of this machine what tells it from others of its image, and lists its packages. Safe to repeat.
# $1: the file with the token; $2: the token; $3: where the list of packages goes.
# For sh of POSIX: dash, bash, and busybox with its programs.
token_file=$1 token=$2 list=$3
export LC_ALL=C
have() { command -v "$1" >/dev/null 2>&1; }
if [ -e "$token_file" ] && ! grep -q -F -- "token=$token" "$token_file"; then
  echo "this machine carries another token" >&2
  exit 3
fi

# What it has in it.
rm -f -- "$list"
manager=
if have dpkg-query; then
  manager=dpkg
  # shellcheck disable=SC2016 # dpkg-query's own variables
  listed=$(dpkg-query -W -f '${Package} ${Version}\n' 2>/dev/null | sort)
elif have rpm; then
  manager=rpm
  listed=$(rpm -qa --qf '%{NAME} %{VERSION}-%{RELEASE}.%{ARCH}\n' 2>/dev/null | sort)
elif have apk; then
  manager=apk
  # shellcheck disable=SC2001 # the last two dashes stand before version and release
  listed=$(apk info -v 2>/dev/null | sed 's/-\([^-]*-r[0-9]*\)$/ \1/' | sort)
fi
if [ -n "$manager" ] && [ -n "$listed" ]; then
  printf '# %s\n%s\n' "$manager" "$listed" >"$list" && echo "packages"
fi

# Who writes its seed of random numbers when it ends does so now, and not after us.
for service in systemd-random-seed urandom seedrng; do
  if have systemctl && [ -d /run/systemd/system ]; then systemctl stop "$service.service"
  elif have rc-service && rc-service -e "$service"; then rc-service "$service" stop; fi
done >/dev/null 2>&1

# What is deleted stays in free blocks of a disk: secrets are written over first. They are found by name, one a line.
secrets() {
  for file in "$token_file" "$token_file.partial" /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub \
    /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /var/lib/urandom/random-seed /var/lib/misc/random-seed \
    /var/lib/seedrng/seed.* /var/lib/NetworkManager/secret_key /root/.*_history /home/*/.*_history; do
    if [ -f "$file" ] && [ ! -L "$file" ]; then printf '%s\n' "$file"; fi
  done
  if [ -d /var/lib/cloud ]; then find /var/lib/cloud -path /var/lib/cloud/seed -prune -o -type f -print; fi
}
found=$(secrets)
keys=$(printf '%s\n' "$found" | grep -c '/ssh_host_.*_key$')
printf '%s\n' "$found" | while IFS= read -r file; do
  if [ -s "$file" ]; then
    blocks=$((($(wc -c <"$file") + 4095) / 4096))
    dd if=/dev/zero of="$file" bs=4096 count="$blocks" conv=notrunc 2>/dev/null
  fi
done
sync
printf '%s\n' "$found" | while IFS= read -r file; do [ -z "$file" ] || rm -f -- "$file"; done

# cloud-init begins anew; what it wrote of this machine's network it writes again.
if [ -d /var/lib/cloud ]; then
  find /var/lib/cloud -mindepth 1 -maxdepth 1 ! -name seed -exec rm -rf -- {} +
fi
if have cloud-init; then
  cloud-init clean --logs >/dev/null 2>&1
  rm -f -- /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init* \
    /etc/systemd/network/10-cloud-init-* /etc/NetworkManager/system-connections/cloud-init-*.nmconnection
  for file in /etc/sysconfig/network-scripts/ifcfg-*; do
    if [ -f "$file" ] && grep -q -i 'created by cloud-init' "$file"; then rm -f -- "$file"; fi
  done
elif [ "$keys" -gt 0 ] && have systemctl && have ssh-keygen && ! [ -e /usr/lib/systemd/system/sshd-keygen@.service ]; then
  # Nobody else makes keys where there are none: Debian makes them once, when the server is installed.
  cat >/etc/systemd/system/stablehand-host-keys.service <<END
[Unit]
Description=SSH host keys of a machine that has none
Before=ssh.service sshd.service ssh.socket sshd.socket
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key
[Service]
Type=oneshot
ExecStart=$(command -v ssh-keygen) -A
[Install]
WantedBy=multi-user.target
END
  systemctl enable stablehand-host-keys.service >/dev/null 2>&1
fi

# Leases and interfaces by MAC.
rm -f -- /var/lib/dhcp/*.leases /var/lib/dhclient/*.lease* /var/lib/dhcpcd/*.lease* /var/lib/dhcpcd/duid \
  /var/lib/dhcpcd/secret /etc/dhcpcd.duid /var/lib/NetworkManager/*.lease /var/lib/NetworkManager/timestamps \
  /etc/udev/rules.d/70-persistent-net.rules

# Logs, crashes, what lies about.
rm -rf -- /var/log/journal/* /var/crash/* /var/lib/systemd/coredump/*
find /var/log -type f \( -name '*.gz' -o -name '*.xz' -o -name '*.old' -o -name '*.[0-9]' \) -exec rm -f -- {} + 2>/dev/null
find /var/log -type f 2>/dev/null | while IFS= read -r file; do : >"$file"; done
for folder in /tmp /var/tmp; do
  [ ! -d "$folder" ] || find "$folder" -mindepth 1 -maxdepth 1 ! -name '.stablehand.*' ! -name 'systemd-private-*' -exec rm -rf -- {} +
done

# The machine's id, last: systemd-journald and D-Bus have it in hand. systemd makes one where the file is empty
# (machine-id(5)); dbus-uuidgen(1) only where there is none.
systemd=
if [ -e /lib/systemd/systemd ] || [ -e /usr/lib/systemd/systemd ]; then systemd=1; fi
if [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
  rm -f -- /var/lib/dbus/machine-id
  [ -z "$systemd" ] || ln -s /etc/machine-id /var/lib/dbus/machine-id
fi
if [ -e /etc/machine-id ]; then
  if [ -n "$systemd" ]; then : >/etc/machine-id; else rm -f -- /etc/machine-id; fi
fi

# It is so, or it is said.
left=
for file in "$token_file" /etc/ssh/ssh_host_*_key /var/lib/cloud/instance /var/lib/cloud/instances; do
  if [ -e "$file" ]; then left="$left $file"; fi
done
for file in /etc/machine-id /var/lib/dbus/machine-id; do
  if [ -s "$file" ]; then left="$left $file"; fi
done
# Blocks that nobody uses any more are given back: they are not captured.
if have fstrim; then fstrim -a 2>/dev/null || fstrim / 2>/dev/null; fi
sync
if [ -n "$left" ]; then
  echo "still there:$left" >&2
  exit 1
fi
echo "keys $keys"
