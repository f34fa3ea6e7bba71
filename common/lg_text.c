/*
 * lg_text.c - makes any bytes fit for a terminal.
 *
 * Names in a segment are chosen by an application, perhaps by its users: no
 * escape sequence and no reversed line may reach a root's terminal. Works on
 * private bytes; any thread.
 */
#include <stdio.h>
#include <string.h>

#include "lg_geometry.h"

static size_t decode(const uint8_t *in, size_t length, uint32_t *point);
static size_t sequence_length(uint8_t lead);
static bool is_control(uint32_t point);

bool
lg_string_get(const uint8_t *strings, uint64_t used, uint32_t id, char *out, size_t size)
{
    uint64_t at = (uint64_t)id * 8;
    uint16_t length;
    if (lg_range_ok(at, 1, sizeof(length) + 1, used)) {
        memcpy(&length, strings + at, sizeof(length));
        /* u16 length, the bytes, NUL */
        if (length <= LG_MAX_STRING && lg_range_ok(at + sizeof(length), 1, length + 1u, used) &&
            strings[at + sizeof(length) + length] == '\0') {
            lg_text_clean((const char *)strings + at + sizeof(length), length, out, size);
            return true;
        }
    }
    if (size > 0) {
        snprintf(out, size, "?%u", id);
    }
    return false;
}

void
lg_text_clean(const char *in, size_t length, char *out, size_t size)
{
    const uint8_t *bytes = (const uint8_t *)in;
    size_t at = 0;
    size_t put = 0;
    if (size == 0) {
        return;
    }
    while (at < length && bytes[at] != '\0') {
        uint32_t point;
        size_t n = decode(bytes + at, length - at, &point);
        bool replace = n == 0 || is_control(point);
        size_t wanted = replace ? 1 : n;
        if (wanted > size - 1 - put) {
            break;                      /* whole characters only */
        }
        if (replace) {
            out[put] = '?';
        }
        else {
            memcpy(out + put, bytes + at, n);
        }
        put += wanted;
        at += n != 0 ? n : 1;
    }
    out[put] = '\0';
}

/* Length of the valid UTF-8 sequence at `in` (RFC 3629: shortest form, no
 * surrogates, up to U+10FFFF), or 0. */
static size_t
decode(const uint8_t *in, size_t length, uint32_t *point)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t lead = in[0];
    size_t n = sequence_length(lead);
    if (n == 0 || n > length) {
        return 0;
    }
    uint32_t value = n == 1 ? lead : lead & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((in[i] & 0xC0) != 0x80) {
            return 0;
        }
        value = value << 6 | (in[i] & 0x3Fu);
    }
    if (value < least[n] || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) {
        return 0;
    }
    *point = value;
    return n;
}

/* By the first byte; 0 for one that starts no sequence (C0 and C1 would be
 * overlong, F5 and above beyond U+10FFFF). */
static size_t
sequence_length(uint8_t lead)
{
    if (lead < 0x80) {
        return 1;
    }
    if (lead < 0xC2 || lead > 0xF4) {
        return 0;
    }
    return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/* C0, DEL, C1, and what turns the direction of writing (Bidi_Control). */
static bool
is_control(uint32_t point)
{
    return point < 0x20 || (point >= 0x7F && point < 0xA0) || point == 0x061C || point == 0x200E ||
           point == 0x200F || (point >= 0x202A && point <= 0x202E) ||
           (point >= 0x2066 && point <= 0x2069);
}
