#include "text.h"

#include <string.h>

void text_add_cut(struct Text* text, const char* addition, size_t limit) {
  size_t room = sizeof text->bytes - 1 - text->length;
  size_t length = strnlen(addition, limit < room ? limit : room);
  memcpy(text->bytes + text->length, addition, length);
  text->length += length;
  text->bytes[text->length] = '\0';
}

void text_add(struct Text* text, const char* addition) { text_add_cut(text, addition, SIZE_MAX); }

void text_add_number(struct Text* text, uint64_t number) {
  char digits[21];
  size_t at = sizeof digits - 1;
  digits[at] = '\0';
  do {
    digits[--at] = (char)('0' + number % 10);
    number /= 10;
  } while (number != 0);
  text_add(text, digits + at);
}

void text_add_all(struct Text* text, const char* const* additions) {
  for (; *additions != NULL; additions++) text_add(text, *additions);
}
