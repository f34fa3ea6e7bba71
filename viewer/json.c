/*
 * json.c - the small JSON writer; see json.h.
 */
#include "json.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "../common/lg_clock.h"
#include "../common/lg_layout.h"

static void member(struct lg_json *json, const char *key);
static void open_with(struct lg_json *json, const char *key, char bracket);
static void quoted(FILE *out, const char *text);
static unsigned sequence_length(const unsigned char *p);

void
lg_json_object(struct lg_json *json, const char *key)
{
    open_with(json, key, '{');
}

void
lg_json_array(struct lg_json *json, const char *key)
{
    open_with(json, key, '[');
}

void
lg_json_end_object(struct lg_json *json)
{
    assert(json->depth > 0);
    json->depth--;
    fputc('}', json->out);
}

void
lg_json_end_array(struct lg_json *json)
{
    assert(json->depth > 0);
    json->depth--;
    fputc(']', json->out);
}

void
lg_json_string(struct lg_json *json, const char *key, const char *text)
{
    if (text == NULL) {
        lg_json_null(json, key);
        return;
    }
    member(json, key);
    quoted(json->out, text);
}

void
lg_json_text_or_null(struct lg_json *json, const char *key, const char *text)
{
    lg_json_string(json, key, text != NULL && text[0] != '\0' ? text : NULL);
}

void
lg_json_u64(struct lg_json *json, const char *key, uint64_t n)
{
    if (n == LG_NONE) {
        lg_json_null(json, key);
        return;
    }
    member(json, key);
    fprintf(json->out, "%" PRIu64, n);
}

void
lg_json_i64(struct lg_json *json, const char *key, int64_t n)
{
    member(json, key);
    fprintf(json->out, "%" PRId64, n);
}

void
lg_json_bool(struct lg_json *json, const char *key, bool value)
{
    member(json, key);
    fputs(value ? "true" : "false", json->out);
}

void
lg_json_null(struct lg_json *json, const char *key)
{
    member(json, key);
    fputs("null", json->out);
}

void
lg_json_number(struct lg_json *json, const char *key, double n, int decimals)
{
    if (!(n >= 0) || isinf(n)) {
        lg_json_null(json, key);
        return;
    }
    char text[400];
    snprintf(text, sizeof(text), "%.*f", decimals, n);
    if (strchr(text, '.') != NULL) {
        size_t end = strlen(text);
        while (text[end - 1] == '0') {
            text[--end] = '\0';
        }
        if (text[end - 1] == '.') {
            text[end - 1] = '\0';
        }
    }
    member(json, key);
    fputs(text, json->out);
}

void
lg_json_us(struct lg_json *json, const char *key, uint64_t ns)
{
    lg_json_u64(json, key, ns == LG_NONE ? LG_NONE : ns / LG_NS_PER_US);
}

void
lg_json_ms(struct lg_json *json, const char *key, uint64_t ns)
{
    lg_json_u64(json, key, ns == LG_NONE ? LG_NONE : ns / LG_NS_PER_MS);
}

static void
open_with(struct lg_json *json, const char *key, char bracket)
{
    member(json, key);
    fputc(bracket, json->out);
    json->depth++;
    assert(json->depth < LG_JSON_DEPTH);
    json->filled[json->depth] = false;
}

/* The comma and the key before a value. */
static void
member(struct lg_json *json, const char *key)
{
    if (json->filled[json->depth]) {
        fputc(',', json->out);
    }
    json->filled[json->depth] = true;
    if (key != NULL) {
        quoted(json->out, key);
        fputc(':', json->out);
    }
}

static void
quoted(FILE *out, const char *text)
{
    fputc('"', out);
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0';) {
        unsigned length = sequence_length(p);
        if (length == 0) {
            fputs("\xef\xbf\xbd", out);
            p++;
            continue;
        }
        if (*p == '"' || *p == '\\') {
            fprintf(out, "\\%c", *p);
        }
        else if (*p == '\n') {
            fputs("\\n", out);
        }
        else if (*p == '\t') {
            fputs("\\t", out);
        }
        else if (*p < 0x20 || *p == 0x7f) {
            fprintf(out, "\\u%04x", *p);
        }
        else {
            fwrite(p, 1, length, out);
        }
        p += length;
    }
    fputc('"', out);
}

/* Bytes of the UTF-8 character at `p`; 0 when there is none: a stray byte, an
 * overlong form, a surrogate, above U+10FFFF. */
static unsigned
sequence_length(const unsigned char *p)
{
    if (p[0] < 0x80) {
        return 1;
    }
    unsigned length = p[0] >= 0xc2 && p[0] < 0xe0   ? 2
                      : p[0] >= 0xe0 && p[0] < 0xf0 ? 3
                      : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
                                                    : 0;
    for (unsigned i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f)) {
        return 0;
    }
    return length;
}
