/*
 * lg_geometry.h - the reader's door: every number of a segment's header is
 * copied once, checked once, and never read from the mapping again.
 *
 * Works on any bytes, hostile ones included: an error value or a counted
 * fault, never a signal.
 */
#ifndef LG_GEOMETRY_H
#define LG_GEOMETRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lg_layout.h"

/* A section as the reader may use it. count 0: the segment does not have it. */
struct lg_extent {
    uint64_t offset;
    uint64_t length;
    uint32_t stride;                    /* bytes from one element to the next */
    uint32_t count;
    uint32_t known;                     /* bytes of an element that we may use */
};

struct lg_geometry {
    struct lg_header header;
    struct lg_proc_info proc;
    struct lg_config_info config;
    struct lg_extent section[LG_MAX_SECTIONS];   /* by LG_SEC_* */
    uint32_t skipped_sections;          /* kinds of a newer minor */
    uint32_t cut_sections;              /* reach beyond the file */
};

/* Where and what: the byte offset and the words for "damaged at byte N (…)". */
struct lg_fault {
    uint64_t offset;
    char what[96];
};

/* `page`: the first min(file_size, LG_HEADER_PAGE) bytes, a private copy.
 * 0, LG_EFORMAT, LG_EVERSION, LG_EENDIAN, LG_EEMPTY (magic still 0),
 * LG_ETRUNCATED (header page not whole) or LG_ECORRUPT. A file shorter than
 * the header says is no error: sections beyond it count as cut. `fault` is
 * filled for LG_ECORRUPT; out.header also for LG_EVERSION. */
int lg_geometry_check(const void *page, size_t page_size, uint64_t file_size,
                      struct lg_geometry *out, struct lg_fault *fault);

/* The one bounds check: does element `index` exist? */
static inline bool
lg_extent_has(const struct lg_extent *x, uint64_t index)
{
    return index < x->count;
}

/* True when n elements of `stride` bytes from `offset` end within `size`,
 * without wrapping. */
bool lg_range_ok(uint64_t offset, uint64_t n, uint64_t stride, uint64_t size);

/* Copies string `id` from a private copy of STRINGS (`used` bytes of it are
 * published) into `out`, NUL-terminated: bounded, cut at NUL, made valid UTF-8,
 * control and bidi characters replaced by '?'. False (and "?17") for a bad id. */
bool lg_string_get(const uint8_t *strings, uint64_t used, uint32_t id, char *out, size_t size);

/* Makes any bytes fit for a terminal, in the same way. */
void lg_text_clean(const char *in, size_t length, char *out, size_t size);

#endif
