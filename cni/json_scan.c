#include "json_scan.h"

#include <string.h>

static bool is_space(uint8_t byte) { return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r'; }

static bool is_version_byte(unsigned byte) {
  return (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') || byte == '.' ||
         byte == '+' || byte == '-';
}

/// Takes one character of a string. One that can be neither in a version nor in our key spoils the token.
static void take(struct JsonScan* scan, unsigned character) {
  if (!is_version_byte(character) || scan->token_length == JSON_SCAN_MAX_VERSION) {
    scan->acceptable = false;
  } else {
    scan->token[scan->token_length++] = (char)character;
  }
}

static void end_string(struct JsonScan* scan) {
  scan->lexeme = JSON_OUTSIDE;
  if (scan->depth != 1) return;
  scan->token[scan->token_length] = '\0';
  if (scan->place == JSON_KEY) {
    scan->of_version = scan->acceptable && strcmp(scan->token, "cniVersion") == 0;
    scan->place = JSON_AFTER_KEY;
  } else if (scan->place == JSON_VALUE) {
    if (scan->of_version && scan->acceptable && scan->token_length != 0) {
      memcpy(scan->version, scan->token, scan->token_length + 1);
      scan->found = true;
    }
    scan->place = JSON_AFTER_VALUE;
  }
}

static void unicode_digit(struct JsonScan* scan, uint8_t byte) {
  unsigned digit = 0;
  if (byte >= '0' && byte <= '9') {
    digit = byte - (unsigned)'0';
  } else if ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f') {
    digit = (byte | 0x20u) - 'a' + 10;
  } else {
    scan->acceptable = false;
  }
  scan->unicode = scan->unicode << 4 | digit;
  if (++scan->unicode_digits < 4) return;
  take(scan, scan->unicode);
  scan->lexeme = JSON_STRING;
}

static void in_string(struct JsonScan* scan, uint8_t byte) {
  if (scan->lexeme == JSON_UNICODE) {
    unicode_digit(scan, byte);
  } else if (scan->lexeme == JSON_ESCAPE) {
    scan->lexeme = byte == 'u' ? JSON_UNICODE : JSON_STRING;
    scan->unicode = 0;
    scan->unicode_digits = 0;
    if (byte != 'u') scan->acceptable = false;  // no other escape stands for a letter, a digit, or . + -
  } else if (byte == '\\') {
    scan->lexeme = JSON_ESCAPE;
  } else if (byte == '"') {
    end_string(scan);
  } else {
    take(scan, byte);
  }
}

static void outside_strings(struct JsonScan* scan, uint8_t byte) {
  if (is_space(byte)) return;
  if (scan->place == JSON_BEFORE && byte != '{') {
    scan->place = JSON_DONE;
    return;
  }
  switch (byte) {
    case '"':
      scan->lexeme = JSON_STRING;
      scan->acceptable = true;
      scan->token_length = 0;
      return;
    case '{':
    case '[':
      if (scan->depth == 0) {
        scan->place = JSON_KEY;
      } else if (scan->depth == 1) {
        scan->place = JSON_AFTER_VALUE;
      } else if (scan->depth == JSON_SCAN_MAX_DEPTH) {
        scan->place = JSON_DONE;
        return;
      }
      scan->depth++;
      return;
    case '}':
    case ']':
      if (--scan->depth == 0) scan->place = JSON_DONE;
      return;
    default:
      break;
  }
  if (scan->depth != 1) return;
  if (byte == ',') {
    scan->place = JSON_KEY;
    scan->of_version = false;
  } else if (byte == ':' && scan->place == JSON_AFTER_KEY) {
    scan->place = JSON_VALUE;
    if (scan->of_version) scan->found = false;
  } else if (scan->place == JSON_VALUE) {
    scan->place = JSON_AFTER_VALUE;
  }
}

void json_scan_feed(struct JsonScan* scan, const uint8_t* bytes, size_t length) {
  for (size_t i = 0; i < length && scan->place != JSON_DONE; i++) {
    if (scan->lexeme == JSON_OUTSIDE) {
      outside_strings(scan, bytes[i]);
    } else {
      in_string(scan, bytes[i]);
    }
  }
}

bool json_scan_done(const struct JsonScan* scan) { return scan->place == JSON_DONE; }

const char* json_scan_version(const struct JsonScan* scan) { return scan->found ? scan->version : NULL; }
