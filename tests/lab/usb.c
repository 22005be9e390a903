/* A libusb with devices that are none: QEMU's `usb-host` opens whatever file it is told to, and the guest sees a device
 * that answers nothing. Hypervisor, libvirt and we behave as with a real one: it is found, given, taken back. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct device_descriptor {
  uint8_t length, type;
  uint16_t usb;
  uint8_t class, subclass, protocol, packet;
  uint16_t vendor, product, version;
  uint8_t manufacturer_text, product_text, serial_text, configurations;
};

struct config_descriptor {
  uint8_t length, type;
  uint16_t total;
  uint8_t interfaces, value, text, attributes, power;
  const void *interface;
  const unsigned char *extra;
  int extra_length;
};

static int device;
enum { FULL_SPEED = 2, IO_ERROR = -1 };

int libusb_init(void **context) { if (context) *context = &device; return 0; }
int libusb_set_option(void *context, int option, ...) { (void)context; (void)option; return 0; }
const void **libusb_get_pollfds(void *context) { (void)context; return NULL; }
void libusb_set_pollfd_notifiers(void *context, void *added, void *removed, void *data) { (void)context; (void)added; (void)removed; (void)data; }
int libusb_handle_events_timeout(void *context, void *time) { (void)context; (void)time; return 0; }
long libusb_get_device_list(void *context, void ***list) { (void)context; *list = calloc(1, sizeof(void *)); return 0; }
void libusb_free_device_list(void **list, int unref) { (void)unref; free(list); }
int libusb_wrap_sys_device(void *context, intptr_t file, void **handle) { (void)context; (void)file; *handle = &device; return 0; }
int libusb_open(void *dev, void **handle) { (void)dev; *handle = &device; return 0; }
void libusb_close(void *handle) { (void)handle; }
void *libusb_get_device(void *handle) { (void)handle; return &device; }
void *libusb_ref_device(void *dev) { return dev; }
void libusb_unref_device(void *dev) { (void)dev; }
uint8_t libusb_get_bus_number(void *dev) { (void)dev; return 1; }
uint8_t libusb_get_device_address(void *dev) { (void)dev; return 4; }
int libusb_get_port_numbers(void *dev, uint8_t *ports, int most) { (void)dev; if (most < 1) return -11; ports[0] = 1; return 1; }
int libusb_get_device_speed(void *dev) { (void)dev; return FULL_SPEED; }
int libusb_get_device_descriptor(void *dev, struct device_descriptor *d) {
  (void)dev;
  *d = (struct device_descriptor){18, 1, 0x0200, 0xff, 0, 0, 64, 0x0529, 0x0001, 0x0100, 0, 0, 0, 1};
  return 0;
}
static int config(struct config_descriptor **out) {
  struct config_descriptor *c = calloc(1, sizeof *c);
  c->length = 9, c->type = 2, c->total = 9, c->value = 1, c->attributes = 0x80, c->power = 50;
  *out = c;
  return 0;
}
int libusb_get_active_config_descriptor(void *dev, struct config_descriptor **out) { (void)dev; return config(out); }
int libusb_get_config_descriptor(void *dev, uint8_t index, struct config_descriptor **out) { (void)dev; return index == 0 ? config(out) : -5; }
void libusb_free_config_descriptor(struct config_descriptor *c) { free(c); }
int libusb_get_string_descriptor_ascii(void *handle, uint8_t index, unsigned char *data, int length) { (void)handle; (void)index; (void)data; (void)length; return IO_ERROR; }
int libusb_kernel_driver_active(void *handle, int interface) { (void)handle; (void)interface; return 0; }
int libusb_detach_kernel_driver(void *handle, int interface) { (void)handle; (void)interface; return 0; }
int libusb_attach_kernel_driver(void *handle, int interface) { (void)handle; (void)interface; return 0; }
int libusb_claim_interface(void *handle, int interface) { (void)handle; (void)interface; return 0; }
int libusb_release_interface(void *handle, int interface) { (void)handle; (void)interface; return 0; }
int libusb_set_configuration(void *handle, int value) { (void)handle; (void)value; return 0; }
int libusb_set_interface_alt_setting(void *handle, int interface, int setting) { (void)handle; (void)interface; (void)setting; return 0; }
int libusb_clear_halt(void *handle, unsigned char endpoint) { (void)handle; (void)endpoint; return 0; }
int libusb_reset_device(void *handle) { (void)handle; return 0; }
void *libusb_alloc_transfer(int packets) { (void)packets; return calloc(1, 4096); }
void libusb_free_transfer(void *transfer) { free(transfer); }
int libusb_submit_transfer(void *transfer) { (void)transfer; return IO_ERROR; }
int libusb_cancel_transfer(void *transfer) { (void)transfer; return -5; }
int libusb_alloc_streams(void *handle, uint32_t n, unsigned char *e, int c) { (void)handle; (void)n; (void)e; (void)c; return -12; }
int libusb_free_streams(void *handle, unsigned char *e, int c) { (void)handle; (void)e; (void)c; return 0; }
void libusb_transfer_set_stream_id(void *transfer, uint32_t id) { (void)transfer; (void)id; }
int libusb_get_ss_endpoint_companion_descriptor(void *context, const void *e, void **out) { (void)context; (void)e; (void)out; return -5; }
void libusb_free_ss_endpoint_companion_descriptor(void *c) { free(c); }
