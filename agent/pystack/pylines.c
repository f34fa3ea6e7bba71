/*
 * pylines.c - which source line an instruction belongs to. Pure functions.
 */
#include "pylines.h"

#define NO_LINE_310 (-128)

/* Kinds of a 3.11 entry, in bits 3..6 of its head. */
#define ENTRY_ONE_LINE_0 10
#define ENTRY_ONE_LINE_2 12
#define ENTRY_NO_COLUMNS 13
#define ENTRY_LONG 14
#define ENTRY_NO_LINE 15

static size_t feed_lnotab(struct lg_pylines *lines, const uint8_t *bytes, size_t size_bytes);
static size_t feed_linetable(struct lg_pylines *lines, const uint8_t *bytes, size_t size_bytes);
static size_t feed_locations(struct lg_pylines *lines, const uint8_t *bytes, size_t size_bytes,
                             bool last);
static int64_t line_change(unsigned kind, const uint8_t *rest, size_t size_bytes);
static int64_t signed_varint(const uint8_t *bytes, size_t size_bytes);
static void find(struct lg_pylines *lines, int64_t line);

void
lg_pylines_start(struct lg_pylines *lines, enum lg_pylines_form form, int32_t first_line,
                 int32_t offset)
{
    *lines = (struct lg_pylines){.form = form, .offset = offset, .line = first_line};
    if (offset < 0) {
        find(lines, first_line);        /* the frame has not begun */
    }
}

size_t
lg_pylines_feed(struct lg_pylines *lines, const uint8_t *bytes, size_t size_bytes, bool last)
{
    size_t used = 0;
    if (lines->done) {
        return size_bytes;
    }
    switch (lines->form) {
    case LG_PYLINES_LNOTAB:
        used = feed_lnotab(lines, bytes, size_bytes);
        break;
    case LG_PYLINES_LINETABLE:
        used = feed_linetable(lines, bytes, size_bytes);
        break;
    case LG_PYLINES_LOCATIONS:
        used = feed_locations(lines, bytes, size_bytes, last);
        break;
    }
    if (last && !lines->done) {
        /* lnotab says nothing about the last line's end, the others do. */
        find(lines, lines->form == LG_PYLINES_LNOTAB ? lines->line : 0);
    }
    return used;
}

static size_t
feed_lnotab(struct lg_pylines *lines, const uint8_t *bytes, size_t size_bytes)
{
    size_t i = 0;
    for (; i + 2 <= size_bytes; i += 2) {
        lines->end += bytes[i];
        if (lines->end > lines->offset) {
            find(lines, lines->line);
            return i;
        }
        lines->line += (int8_t)bytes[i + 1];
    }
    return i;
}

static size_t
feed_linetable(struct lg_pylines *lines, const uint8_t *bytes, size_t size_bytes)
{
    size_t i = 0;
    for (; i + 2 <= size_bytes; i += 2) {
        int change = bytes[i + 1] < 128 ? bytes[i + 1] : bytes[i + 1] - 256;
        lines->end += bytes[i];
        if (change != NO_LINE_310) {
            lines->line += change;
        }
        if (lines->end > lines->offset) {
            find(lines, change == NO_LINE_310 ? 0 : lines->line);
            return i;
        }
    }
    return i;
}

static size_t
feed_locations(struct lg_pylines *lines, const uint8_t *bytes, size_t size_bytes, bool last)
{
    size_t i = 0;
    while (i < size_bytes) {
        size_t next = i + 1;
        while (next < size_bytes && (bytes[next] & 0x80) == 0) {
            next++;
        }
        if (next == size_bytes && !last) {
            /* The entry may go on in the next chunk. One longer than a chunk
             * is garbage: skip it, so that the caller gets ahead. */
            return i == 0 && size_bytes >= LG_PYLINES_CHUNK_MIN ? size_bytes : i;
        }
        unsigned kind = (bytes[i] >> 3) & 15;
        lines->line += line_change(kind, bytes + i + 1, next - i - 1);
        lines->end += 2 * ((bytes[i] & 7) + 1);
        if (lines->end > lines->offset) {
            find(lines, kind == ENTRY_NO_LINE ? 0 : lines->line);
            return i;
        }
        i = next;
    }
    return i;
}

static int64_t
line_change(unsigned kind, const uint8_t *rest, size_t size_bytes)
{
    if (kind == ENTRY_NO_COLUMNS || kind == ENTRY_LONG) {
        return signed_varint(rest, size_bytes);
    }
    if (kind >= ENTRY_ONE_LINE_0 && kind <= ENTRY_ONE_LINE_2) {
        return kind - ENTRY_ONE_LINE_0;
    }
    return 0;
}

/* Six bits a byte, the lowest first; bit 6: more follows. The lowest bit of
 * the whole is the sign. */
static int64_t
signed_varint(const uint8_t *bytes, size_t size_bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size_bytes && i < 6; i++) {
        value |= (uint64_t)(bytes[i] & 63) << (6 * i);
        if ((bytes[i] & 64) == 0) {
            break;
        }
    }
    int64_t size = (int64_t)(value >> 1);
    return (value & 1) != 0 ? -size : size;
}

static void
find(struct lg_pylines *lines, int64_t line)
{
    lines->found = line > 0 && line <= INT32_MAX ? (int32_t)line : 0;
    lines->done = true;
}
