/*
 * image.c - a live segment, copied with pread(); see image.h.
 */
#include "image.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../common/lg_error.h"
#include "../common/lg_ring.h"

#define TRIES 50                        /* of an element that never rests, as in snapshot.c */

struct image {
    int fd;
    const struct lg_geometry *geo;
    uint32_t kinds;
    uint8_t *bytes;
    size_t size;
    uint8_t *before;                    /* scratch: the same places, read before ... */
    uint8_t *after;                     /* ... and after */
    struct lg_tables tables;            /* what the copy will say is used */
};

/* What a sequence that never rests becomes in the copy. */
enum unrest { BEING_WRITTEN, OVERWRITTEN };

static int take_writers_part(struct image *im);
static int take_tables_part(struct image *im);
static int read_tables(struct image *im, struct lg_tables *out);
static int take_rings(struct image *im);
static int take_histories(struct image *im);
static int take_hists(struct image *im);
static int take(struct image *im, uint32_t kind, uint64_t first, uint64_t count);
static int take_locked(struct image *im, uint32_t kind, uint64_t first, uint64_t count,
                       enum unrest unrest);
static int retry(struct image *im, uint64_t at, uint32_t stride, enum unrest unrest);
static int take_cells(struct image *im, uint32_t kind, uint64_t count);
static int get(struct image *im, uint8_t *to, uint64_t from, uint64_t length);
static uint64_t word_at(const uint8_t *bytes, uint64_t at);
static uint64_t at_most(uint64_t n, uint64_t limit);
static bool wants(const struct image *im, uint32_t kind);
static size_t scratch_size(const struct lg_geometry *geo);

int
lg_image_take(int fd, const struct lg_geometry *geo, uint32_t kinds, uint8_t *bytes, size_t size)
{
    struct image im = {.fd = fd, .geo = geo, .kinds = kinds, .bytes = bytes, .size = size};
    size_t scratch = scratch_size(geo);
    int err = -ENOMEM;
    im.before = malloc(scratch);
    im.after = malloc(scratch);
    if (im.before != NULL && im.after != NULL) {
        err = get(&im, bytes, 0, at_most(LG_HEADER_PAGE, size));
    }
    if (err == 0) {
        err = take_writers_part(&im);
    }
    if (err == 0) {
        err = take_tables_part(&im);
    }
    free(im.before);
    free(im.after);
    return err;
}

/* Those that refer to others come first: what they name was published before
 * the tables are copied. */
static int
take_writers_part(struct image *im)
{
    const struct lg_extent *x = im->geo->section;
    int err = read_tables(im, &im->tables);
    if (err == 0) {
        err = take_locked(im, LG_SEC_ANCHOR, 0, 1, BEING_WRITTEN);
    }
    if (err == 0) {
        err = take_locked(im, LG_SEC_LOOPS, 0,
                          at_most(im->tables.loops_used, x[LG_SEC_LOOPS].count), BEING_WRITTEN);
    }
    if (err == 0) {
        err = take(im, LG_SEC_SELF, 0, 1);
    }
    if (err == 0) {
        err = take_rings(im);
    }
    if (err == 0) {
        err = take_locked(im, LG_SEC_STALLS, 0,
                          at_most(im->tables.stalls_head, x[LG_SEC_STALLS].count), BEING_WRITTEN);
    }
    if (err == 0) {
        err = take(im, LG_SEC_POOL, 0, 1);
    }
    if (err == 0) {
        err = take(im, LG_SEC_FEATURES, 0, x[LG_SEC_FEATURES].count);
    }
    return err != 0 ? err : take(im, LG_SEC_WRITERS, 0, x[LG_SEC_WRITERS].count);
}

/* Each table after those that index it; TABLES of the copy is put together
 * from what was read before each. */
static int
take_tables_part(struct image *im)
{
    struct lg_tables now;
    const struct lg_extent *x = im->geo->section;
    int err = read_tables(im, &now);
    if (err == 0) {
        im->tables.endpoints_used = now.endpoints_used;
        im->tables.stacks_used = now.stacks_used;
        err = take(im, LG_SEC_ENDPOINTS, 0, at_most(now.endpoints_used, x[LG_SEC_ENDPOINTS].count));
    }
    if (err == 0) {
        err = take_hists(im);
    }
    if (err == 0) {
        err = take_histories(im);
    }
    if (err == 0) {
        err = take(im, LG_SEC_STACKS, 0, at_most(now.stacks_used, x[LG_SEC_STACKS].count));
    }
    if (err == 0) {
        err = read_tables(im, &now);
    }
    if (err == 0) {
        im->tables.frames_used = now.frames_used;
        err = take(im, LG_SEC_FRAMES, 0, at_most(now.frames_used, x[LG_SEC_FRAMES].count));
    }
    if (err == 0) {
        err = read_tables(im, &now);
    }
    if (err == 0) {
        im->tables.strings_used = now.strings_used;
        err = take(im, LG_SEC_STRINGS, 0, at_most(now.strings_used, x[LG_SEC_STRINGS].count));
    }
    if (err == 0 && x[LG_SEC_TABLES].count > 0) {
        memcpy(im->bytes + x[LG_SEC_TABLES].offset, &im->tables,
               at_most(x[LG_SEC_TABLES].known, sizeof(im->tables)));
    }
    return err;
}

/* Without TABLES everything counts as used: the reader finds out. */
static int
read_tables(struct image *im, struct lg_tables *out)
{
    const struct lg_extent *x = &im->geo->section[LG_SEC_TABLES];
    memset(out, 0xff, sizeof(*out));
    if (x->count == 0 || x->known < sizeof(*out)) {
        return 0;
    }
    return get(im, (uint8_t *)out, x->offset, sizeof(*out));
}

/* Heads first: every record below them is whole in its slot by then, or has
 * been overwritten, which the three readings tell. */
static int
take_rings(struct image *im)
{
    const struct lg_extent *heads = &im->geo->section[LG_SEC_RING_HEADS];
    uint64_t slots = im->geo->section[LG_SEC_RING_SLOTS].count;
    int err = take(im, LG_SEC_RING_HEADS, 0, heads->count);
    for (uint32_t i = 0; i < heads->count && err == 0 && wants(im, LG_SEC_RING_HEADS); i++) {
        struct lg_ring head;
        if (heads->known < sizeof(head)) {
            break;
        }
        memcpy(&head, im->bytes + heads->offset + (uint64_t)i * heads->stride, sizeof(head));
        if (head.capacity != 0 && lg_ring_fits(&head, slots)) {
            /* One more than written: whoever reads the dead looks there. */
            err = take_locked(im, LG_SEC_RING_SLOTS, head.first_slot,
                              at_most(head.head, head.capacity - 1) + 1, OVERWRITTEN);
        }
    }
    return err;
}

/* Histograms of the endpoints in use, and those behind all endpoints. */
static int
take_hists(struct image *im)
{
    const struct lg_extent *x = &im->geo->section[LG_SEC_HISTS];
    uint64_t endpoints = im->geo->section[LG_SEC_ENDPOINTS].count;
    uint64_t used = at_most(2 * at_most(im->tables.endpoints_used, endpoints), x->count);
    uint64_t behind = at_most(2 * endpoints, x->count);
    int err = take(im, LG_SEC_HISTS, 0, used);
    return err != 0 ? err : take(im, LG_SEC_HISTS, behind, x->count - behind);
}

static int
take_histories(struct image *im)
{
    const struct lg_extent *x = im->geo->section;
    uint64_t endpoints = at_most(im->tables.endpoints_used, x[LG_SEC_ENDPOINTS].count);
    uint64_t loops = at_most(im->tables.loops_used, x[LG_SEC_LOOPS].count);
    int err = take_cells(im, LG_SEC_ENDPOINT_HISTORY,
                         at_most(endpoints * LG_CELLS, x[LG_SEC_ENDPOINT_HISTORY].count));
    return err != 0 ? err
                    : take_cells(im, LG_SEC_LOOP_HISTORY,
                                 at_most(loops * LG_LOOP_CELLS, x[LG_SEC_LOOP_HISTORY].count));
}

static int
take(struct image *im, uint32_t kind, uint64_t first, uint64_t count)
{
    const struct lg_extent *x = &im->geo->section[kind];
    if (!wants(im, kind) || count == 0) {
        return 0;
    }
    uint64_t at = x->offset + first * x->stride;
    return get(im, im->bytes + at, at, at_most(count, x->count - first) * x->stride);
}

/* Elements whose first word is a sequence: equal and even before and after, so
 * nobody wrote while the words were read. */
static int
take_locked(struct image *im, uint32_t kind, uint64_t first, uint64_t count, enum unrest unrest)
{
    const struct lg_extent *x = &im->geo->section[kind];
    if (!wants(im, kind) || x->count == 0 || count == 0 || x->stride < sizeof(uint64_t)) {
        return 0;
    }
    uint64_t at = x->offset + first * x->stride;
    uint64_t length = at_most(count, x->count - first) * x->stride;
    int err = get(im, im->before, at, length);
    if (err == 0) {
        err = get(im, im->bytes + at, at, length);
    }
    if (err == 0) {
        err = get(im, im->after, at, length);
    }
    for (uint64_t i = 0; i < length && err == 0; i += x->stride) {
        uint64_t seq = word_at(im->before, i);
        if (seq % 2 != 0 || seq != word_at(im->after, i)) {
            err = retry(im, at + i, x->stride, unrest);
        }
        else {
            memcpy(im->bytes + at + i, &seq, sizeof(seq));
        }
    }
    return err;
}

static int
retry(struct image *im, uint64_t at, uint32_t stride, enum unrest unrest)
{
    uint64_t before = 0;
    uint64_t after = 0;
    int err = 0;
    for (int i = 0; i < TRIES && err == 0; i++) {
        err = get(im, (uint8_t *)&before, at, sizeof(before));
        if (err == 0) {
            err = get(im, im->bytes + at, at, stride);
        }
        if (err == 0) {
            err = get(im, (uint8_t *)&after, at, sizeof(after));
        }
        if (err == 0 && before % 2 == 0 && before == after) {
            memcpy(im->bytes + at, &before, sizeof(before));
            return 0;
        }
    }
    /* A reader takes an odd sequence for a writer inside, and in a ring one
     * beyond every ticket for a record that is gone. */
    before = unrest == OVERWRITTEN ? UINT64_MAX : before | 1;
    memcpy(im->bytes + at, &before, sizeof(before));
    return err;
}

/* Cells are under no sequence: one that was given to another second between
 * two readings may hold numbers of both and counts as empty this time. */
static int
take_cells(struct image *im, uint32_t kind, uint64_t count)
{
    const struct lg_extent *x = &im->geo->section[kind];
    if (!wants(im, kind) || count == 0 || x->stride < sizeof(uint64_t)) {
        return 0;
    }
    uint64_t length = count * x->stride;
    int err = get(im, im->bytes + x->offset, x->offset, length);
    if (err == 0) {
        err = get(im, im->after, x->offset, length);
    }
    for (uint64_t i = 0; i < length && err == 0; i += x->stride) {
        if (LG_LO(word_at(im->bytes, x->offset + i)) != LG_LO(word_at(im->after, i))) {
            memset(im->bytes + x->offset + i, 0, x->stride);
        }
    }
    return err;
}

static int
get(struct image *im, uint8_t *to, uint64_t from, uint64_t length)
{
    uint64_t got = 0;
    if (from > im->size || length > im->size - from) {
        return LG_ETRUNCATED;
    }
    while (got < length) {
        ssize_t n = pread(im->fd, to + got, length - got, (off_t)(from + got));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : LG_ETRUNCATED;
        }
        got += (uint64_t)n;
    }
    return 0;
}

static uint64_t
word_at(const uint8_t *bytes, uint64_t at)
{
    uint64_t word;
    memcpy(&word, bytes + at, sizeof(word));
    return word;
}

static uint64_t
at_most(uint64_t n, uint64_t limit)
{
    return n < limit ? n : limit;
}

static bool
wants(const struct image *im, uint32_t kind)
{
    return (im->kinds & UINT32_C(1) << kind) != 0 && im->geo->section[kind].count > 0;
}

/* The longest section that is read more than once. */
static size_t
scratch_size(const struct lg_geometry *geo)
{
    static const uint32_t kinds[] = {
        LG_SEC_ANCHOR,           LG_SEC_LOOPS,        LG_SEC_RING_SLOTS, LG_SEC_STALLS,
        LG_SEC_ENDPOINT_HISTORY, LG_SEC_LOOP_HISTORY,
    };
    uint64_t longest = LG_HEADER_PAGE;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        const struct lg_extent *x = &geo->section[kinds[i]];
        uint64_t length = (uint64_t)x->count * x->stride;
        longest = length > longest ? length : longest;
    }
    return longest;
}
