/*
 * json.h - a small JSON writer on a FILE.
 *
 * Members are written in call order; commas and nesting are its business. A
 * key is NULL inside an array. Strings come out as valid UTF-8: bad bytes
 * become U+FFFD. Unknown numbers (LG_NONE, negative shares) become null.
 * Write errors stay in the FILE: ask ferror() at the end.
 */
#ifndef LG_JSON_H
#define LG_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define LG_JSON_DEPTH 24

struct lg_json {                        /* {.out = file} to start */
    FILE *out;
    int depth;
    bool filled[LG_JSON_DEPTH];         /* a member was written at this depth */
};

void lg_json_object(struct lg_json *json, const char *key);
void lg_json_array(struct lg_json *json, const char *key);
void lg_json_end_object(struct lg_json *json);
void lg_json_end_array(struct lg_json *json);

void lg_json_string(struct lg_json *json, const char *key, const char *text);  /* NULL: null */
void lg_json_text_or_null(struct lg_json *json, const char *key, const char *text); /* "": null */
void lg_json_u64(struct lg_json *json, const char *key, uint64_t n);
void lg_json_i64(struct lg_json *json, const char *key, int64_t n);
void lg_json_bool(struct lg_json *json, const char *key, bool value);
void lg_json_null(struct lg_json *json, const char *key);
/* Up to `decimals` places; below 0 or not a number: null. */
void lg_json_number(struct lg_json *json, const char *key, double n, int decimals);
/* Nanoseconds as whole microseconds, milliseconds. */
void lg_json_us(struct lg_json *json, const char *key, uint64_t ns);
void lg_json_ms(struct lg_json *json, const char *key, uint64_t ns);

#endif
