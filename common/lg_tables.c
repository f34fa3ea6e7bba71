/*
 * lg_tables.c - appends to STRINGS and FRAMES.
 *
 * One thread at a time (the agent's mutex). The cursors are private: what
 * another process scribbles into the segment never steers a store of ours.
 */
#include <string.h>

#include "lg_atomic.h"
#include "lg_segment.h"

static size_t cut_utf8(const char *text, size_t length);

uint32_t
lg_strings_append(struct lg_segment *seg, const char *text, size_t length)
{
    length = strnlen(text, length);
    length = cut_utf8(text, length);
    uint64_t at = seg->strings_used;
    /* u16 length, the bytes, NUL, padded to 8 */
    uint64_t entry_bytes = (2 + length + 1 + 7) & ~UINT64_C(7);
    if (length == 0 || entry_bytes > seg->string_bytes - at) {
        return 0;
    }
    uint16_t length16 = (uint16_t)length;
    memcpy(seg->strings + at, &length16, sizeof(length16));
    memcpy(seg->strings + at + 2, text, length);
    seg->strings[at + 2 + length] = '\0';
    seg->strings_used = at + entry_bytes;
    /* A reader that sees the new end must see the bytes before it. Pairs with
     * the acquire load of strings_used before STRINGS is copied. */
    lg_store_release(&seg->tables->strings_used, seg->strings_used);
    return (uint32_t)(at / 8);
}

uint32_t
lg_frames_append(struct lg_segment *seg, uint32_t file, uint32_t function, uint32_t line,
                 uint32_t next)
{
    uint64_t at = seg->frames_used;
    if (at >= seg->frame_count || next >= at) {
        return 0;
    }
    struct lg_frame *frame = &seg->frames[at];
    lg_store32_relaxed(&frame->file, file);
    lg_store32_relaxed(&frame->function, function);
    lg_store32_relaxed(&frame->line, line);
    lg_store32_relaxed(&frame->next, next);
    seg->frames_used = at + 1;
    /* Pairs with the acquire load of frames_used before FRAMES is copied. */
    lg_store_release(&seg->tables->frames_used, seg->frames_used);
    return (uint32_t)at;
}

/* At most LG_MAX_STRING bytes, and not in the middle of a sequence. */
static size_t
cut_utf8(const char *text, size_t length)
{
    if (length <= LG_MAX_STRING) {
        return length;
    }
    length = LG_MAX_STRING;
    for (int i = 0; i < 3 && ((unsigned char)text[length] & 0xC0) == 0x80; i++) {
        length--;
    }
    return length;
}
