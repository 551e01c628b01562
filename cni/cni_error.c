#include "cni_error.h"

#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "io.h"

/// A caller that does not read its pipe does not keep us longer than this.
enum { WRITE_MS = 1000 };

struct Output {
  size_t length;
  char bytes[3 * sizeof(((struct Text*)0)->bytes) * 2 + 256];  // each byte of a text becomes 3 bytes at most
};

static void put(struct Output* output, const char* bytes, size_t length) {
  if (length > sizeof output->bytes - output->length) return;
  memcpy(output->bytes + output->length, bytes, length);
  output->length += length;
}

static void put_string(struct Output* output, const char* string) { put(output, string, strlen(string)); }

/// Length of the UTF-8 sequence that starts here, or 0 if it is none (RFC 3629, section 4).
static size_t utf8_length(const uint8_t* bytes, size_t available) {
  uint8_t lead = bytes[0];
  if (lead < 0x80) return 1;
  size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || length > available) return 0;
  uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  if (bytes[1] < low || bytes[1] > high) return 0;
  for (size_t i = 2; i < length; i++) {
    if ((bytes[i] & 0xc0) != 0x80) return 0;
  }
  return length;
}

/// A JSON string in one line: control characters and bytes that are no UTF-8 turn into replacements.
static void put_json_string(struct Output* output, const struct Text* text) {
  // kubelet takes a failed DEL that says "not found" for a done one; a path or variable may well contain it.
  static const char taken_for_success[] = "not found";
  const uint8_t* bytes = (const uint8_t*)text->bytes;
  put_string(output, "\"");
  for (size_t i = 0; i < text->length;) {
    size_t length = utf8_length(bytes + i, text->length - i);
    if (length == 0) {
      put_string(output, "\xef\xbf\xbd");
      length = 1;
    } else if (bytes[i] < 0x20 || bytes[i] == 0x7f) {
      put_string(output, "?");
    } else if (bytes[i] == '"' || bytes[i] == '\\') {
      put(output, (const char[]){'\\', (char)bytes[i]}, 2);
    } else if (strncmp(text->bytes + i, taken_for_success, sizeof taken_for_success - 1) == 0) {
      put_string(output, "not-found");
      length = sizeof taken_for_success - 1;
    } else {
      put(output, text->bytes + i, length);
    }
    i += length;
  }
  put_string(output, "\"");
}

void cni_error_print(const struct CniError* error, const char* version) {
  static struct Output output;
  struct Text code = {0};
  text_add_number(&code, error->code);
  put_string(&output, "{\"cniVersion\":\"");
  put_string(&output, version == NULL ? CNI_DEFAULT_VERSION : version);
  put_string(&output, "\",\"code\":");
  put_string(&output, code.bytes);
  put_string(&output, ",\"msg\":");
  put_json_string(&output, &error->message);
  if (error->details.length != 0) {
    put_string(&output, ",\"details\":");
    put_json_string(&output, &error->details);
  }
  put_string(&output, "}\n");
  (void)write_all(STDOUT_FILENO, output.bytes, output.length, now_ms() + WRITE_MS);
}
