/// Bounded text built in place: what does not fit is cut, nothing is allocated, and it is always NUL-terminated.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct Text {
  size_t length;
  char bytes[1024];
};

void text_add(struct Text* text, const char* addition);

/// At most `limit` bytes of `addition`.
void text_add_cut(struct Text* text, const char* addition, size_t limit);

void text_add_number(struct Text* text, uint64_t number);

/// Adds each of a NULL-terminated list.
void text_add_all(struct Text* text, const char* const* additions);

/// Replaces what is there: text_set(&text, "open ", path, ": ", strerror(errno)).
#define text_set(text, ...) ((text)->length = 0, text_add_all((text), (const char* const[]){__VA_ARGS__, NULL}))
