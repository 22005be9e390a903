# Facts about this guest, for the other scripts to read in.
read -r image_release </etc/image-release
read -r boot_id </proc/sys/kernel/random/boot_id
address() { # all global addresses, in one line, without the prefix length
  ip -o addr show scope global 2>/dev/null | awk '{sub("/.*", "", $4); printf "%s%s", s, $4; s = " "} END {if (!NR) printf "-"}'
}
# Boots are counted on the first data disk, which outlives the VM, or on the root disk if there is none.
log_dir() { [ -e /run/log-dir ] && cat /run/log-dir || echo /var/lib/cloud; }
