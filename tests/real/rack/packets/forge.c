/* Sends what it reads, byte for byte, as one frame on the second interface: eth0 of a guest that has no other. Without a C
   library, so that it is small enough for a seed. */
static long call(long n, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
  __asm__ volatile("syscall" : "+a"(n) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
  return n;
}

static unsigned char frame[2048];

/* sockaddr_ll of packet(7) */
static struct {
  unsigned short family, protocol;
  int interface;
  unsigned short kind;
  unsigned char type, length, address[8];
} to = {17, 0, 2, 0, 0, 6, {0}};

void _start(void) {
  long length = 0, n;
  while ((n = call(0, 0, (long)(frame + length), sizeof frame - length, 0, 0, 0)) > 0) length += n;
  long raw = call(41, 17, 3, 0, 0, 0, 0);
  n = call(44, raw, (long)frame, length, 0, (long)&to, sizeof to);
  call(60, n == length ? 0 : 1, 0, 0, 0, 0, 0);
}
