/*
 * snapshot.c - from a mapping or a file into private copies; see snapshot.h.
 *
 * A refresh runs inside one lg_copy_run(): it allocates nothing and may be
 * left at any load when the file is cut under us. Order of copying: whoever
 * points before what it points to, so that every id that we hold was published
 * before the table it indexes was copied.
 */
#include "snapshot.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../common/lg_atomic.h"
#include "../common/lg_clock.h"
#include "../common/lg_copy.h"
#include "../common/lg_error.h"
#include "../common/lg_hist.h"
#include "../common/lg_seqlock.h"
#include "image.h"

#define TRIES 50                        /* reads of a seqlock that never rests */
#define MAX_COUNT (1u << 22)            /* of any table; 64 MiB hold no more */

#define NO_SLOT UINT32_MAX

static int open_as(struct lg_source *source, bool unmapped, struct lg_snapshot **out);
static uint32_t slot_of(const struct lg_snapshot *snap, uint64_t ticket);
static int take_bytes(struct lg_snapshot *snap);
static int read_file(int fd, uint8_t *to, size_t size);
static int take_memory(struct lg_snapshot *snap);
static int usable(struct lg_snapshot *snap, uint32_t kind, size_t element, uint32_t *count);
static void note_cut(struct lg_snapshot *snap);
static int run(struct lg_snapshot *snap, uint32_t kinds, void (*take)(void *));
static bool image_again(struct lg_snapshot *snap, uint32_t kinds);
static int take_image(struct lg_snapshot *snap, uint32_t kinds);
static void take_all(void *arg);
static void take_loops_only(void *arg);
static void take_head(struct lg_snapshot *snap);
static void take_tables(struct lg_snapshot *snap);
static uint64_t clipped(struct lg_snapshot *snap, uint64_t n, uint64_t limit, size_t field,
                        const char *what);
static void take_loops(struct lg_snapshot *snap);
static bool take_loop(struct lg_snapshot *snap, uint32_t index, struct lg_loop_entry *out);
static void take_rings(struct lg_snapshot *snap);
static void take_ring(struct lg_snapshot *snap, uint32_t index, const struct lg_ring *head);
static void take_stalls(struct lg_snapshot *snap);
static void take_stall(struct lg_snapshot *snap, uint32_t slot, uint64_t ticket);
static void take_endpoints(struct lg_snapshot *snap);
static void check_endpoints(struct lg_snapshot *snap);
static void take_hists(struct lg_snapshot *snap);
static void take_hist(struct lg_snapshot *snap, uint32_t index);
static void take_history(struct lg_snapshot *snap);
static void take_cells(struct lg_snapshot *snap, uint32_t kind, uint64_t first, uint32_t count,
                       size_t cell, uint8_t *to);
static void take_strings(struct lg_snapshot *snap);
static void copy_elements(struct lg_snapshot *snap, uint32_t kind, uint64_t first, uint64_t count,
                          size_t element, void *to);
static const uint8_t *at(const struct lg_snapshot *snap, uint32_t kind, uint64_t index);
static bool has(const struct lg_snapshot *snap, uint32_t kind);

int
lg_snapshot_open(struct lg_source *source, struct lg_snapshot **out)
{
    return open_as(source, false, out);
}

int
lg_snapshot_open_unmapped(struct lg_source *source, struct lg_snapshot **out)
{
    return open_as(source, true, out);
}

static int
open_as(struct lg_source *source, bool unmapped, struct lg_snapshot **out)
{
    struct lg_snapshot *snap = calloc(1, sizeof(*snap));
    if (snap == NULL) {
        lg_source_close(source);
        return -ENOMEM;
    }
    snap->source = *source;
    source->fd = -1;                    /* handed over */
    snap->live = snap->source.life == LG_ALIVE;
    snap->unmapped = unmapped;
    int err = take_bytes(snap);
    if (err == 0) {
        note_cut(snap);
        err = take_memory(snap);
    }
    if (err == 0) {
        err = run(snap, 0, take_all);
    }
    if (err != 0) {
        lg_snapshot_close(snap);
        return err;
    }
    check_endpoints(snap);
    snap->filled = true;
    if (!snap->live) {
        free((void *)snap->bytes);      /* the dead are read once */
        snap->bytes = NULL;
    }
    *out = snap;
    return 0;
}

void
lg_snapshot_close(struct lg_snapshot *snap)
{
    if (snap == NULL) {
        return;
    }
    if (snap->live && !snap->unmapped && snap->bytes != NULL) {
        munmap((void *)snap->bytes, snap->byte_count);
    }
    else {
        free((void *)snap->bytes);
    }
    for (uint32_t i = 0; i < snap->text_slots && snap->texts != NULL; i++) {
        free(snap->texts[i]);
    }
    for (size_t i = 0; i < sizeof(snap->bad_texts) / sizeof(snap->bad_texts[0]); i++) {
        free(snap->bad_texts[i]);
    }
    for (size_t i = 0; i < LG_RINGS; i++) {
        free(snap->rings[i].record);
    }
    void *owned[] = {
        snap->features,     snap->writers,        snap->strings,
        snap->endpoints,    snap->endpoint_dirty, snap->hists,
        snap->loops,        snap->loop_torn,      snap->endpoint_history,
        snap->loop_history, snap->stalls,         snap->stall_torn,
        snap->stall_open,   snap->stacks,         snap->frames,
        snap->endpoint_bad, snap->texts,          snap->again,
    };
    for (size_t i = 0; i < sizeof(owned) / sizeof(owned[0]); i++) {
        free(owned[i]);
    }
    lg_source_close(&snap->source);
    free(snap);
}

int
lg_snapshot_refresh(struct lg_snapshot *snap)
{
    if (!snap->live) {
        return 0;
    }
    int err = run(snap, LG_IMAGE_ALL, take_all);
    if (err == 0) {
        check_endpoints(snap);
    }
    return err;
}

int
lg_snapshot_refresh_loops(struct lg_snapshot *snap)
{
    uint32_t kinds = LG_IMAGE_KIND(LOOPS) | LG_IMAGE_KIND(ANCHOR);
    return snap->live ? run(snap, kinds, take_loops_only) : 0;
}

/* The arguments of one re-read, through lg_copy_run()'s one pointer. */
struct reread {
    struct lg_snapshot *snap;
    uint32_t index;
    uint64_t ticket;
    struct lg_loop_entry entry;
    bool whole;
};

static void
reread_loop(void *arg)
{
    struct reread *r = arg;
    r->whole = take_loop(r->snap, r->index, &r->entry);
}

static void
reread_stall(void *arg)
{
    struct reread *r = arg;
    take_stall(r->snap, r->index, r->ticket);
}

bool
lg_snapshot_reread_loop(struct lg_snapshot *snap, uint32_t loop, struct lg_loop_entry *out)
{
    struct reread r = {.snap = snap, .index = loop};
    if (!snap->live || snap->cut || loop >= snap->loop_count ||
        !image_again(snap, LG_IMAGE_KIND(LOOPS)) ||
        lg_copy_run(snap->bytes, snap->byte_count, reread_loop, &r) != 0 || !r.whole) {
        return false;
    }
    *out = r.entry;
    return true;
}

void
lg_snapshot_reread_stall(struct lg_snapshot *snap, uint64_t ticket)
{
    uint32_t slot = slot_of(snap, ticket);
    if (!snap->live || snap->cut || slot == NO_SLOT || !image_again(snap, LG_IMAGE_KIND(STALLS))) {
        return;
    }
    struct reread r = {.snap = snap, .index = slot, .ticket = ticket};
    if (lg_copy_run(snap->bytes, snap->byte_count, reread_stall, &r) != 0) {
        snap->cut = true;
    }
}

const struct lg_stall *
lg_snapshot_stall(const struct lg_snapshot *snap, uint64_t ticket)
{
    uint32_t slot = slot_of(snap, ticket);
    return slot != NO_SLOT && snap->stalls[slot].ticket == ticket + 1 ? &snap->stalls[slot] : NULL;
}

const struct lg_stall *
lg_snapshot_whole_stall(const struct lg_snapshot *snap, uint64_t ticket)
{
    const struct lg_stall *stall = lg_snapshot_stall(snap, ticket);
    return stall != NULL && !snap->stall_torn[slot_of(snap, ticket)] ? stall : NULL;
}

/* Where a ticket's stall lies; NO_SLOT when the file ends before it. */
static uint32_t
slot_of(const struct lg_snapshot *snap, uint64_t ticket)
{
    uint64_t slot = snap->stall_slots != 0 ? ticket % snap->stall_slots : NO_SLOT;
    return slot < snap->stall_count ? (uint32_t)slot : NO_SLOT;
}

const struct lg_record *
lg_snapshot_record(const struct lg_snapshot *snap, uint32_t ring, uint64_t ticket)
{
    const struct lg_records *records = &snap->rings[ring];
    if (ring >= LG_RINGS || records->capacity == 0 || ticket < records->from ||
        ticket >= records->to) {
        return NULL;
    }
    const struct lg_record *rec = &records->record[ticket & (records->capacity - 1)];
    return rec->ticket == ticket && rec->tag != 0 ? rec : NULL;
}

const char *
lg_snapshot_text(struct lg_snapshot *snap, uint32_t id)
{
    if (id == 0) {
        return "";
    }
    if (id < snap->text_slots && snap->texts[id] != NULL) {
        return snap->texts[id];
    }
    char text[4 * LG_MAX_STRING + 4];
    bool good = lg_string_get(snap->strings, snap->strings_used, id, text, sizeof(text));
    char *copy = strdup(text);
    if (copy == NULL) {
        return "?";
    }
    if (good && id < snap->text_slots) {
        snap->texts[id] = copy;
        return copy;
    }
    /* A bad id: its text lives in one of few places, by the id. The same id
     * keeps its place; another one there is answered with a plain "?". */
    char **place = &snap->bad_texts[id % (sizeof(snap->bad_texts) / sizeof(snap->bad_texts[0]))];
    if (*place == NULL) {
        *place = copy;
        return copy;
    }
    bool same = strcmp(*place, copy) == 0;
    free(copy);
    return same ? *place : "?";
}

bool
lg_snapshot_text_ok(struct lg_snapshot *snap, uint32_t id)
{
    char text[8];
    return id == 0 || (id < snap->text_slots && snap->texts[id] != NULL) ||
           lg_string_get(snap->strings, snap->strings_used, id, text, sizeof(text));
}

void
lg_snapshot_fault(struct lg_snapshot *snap, uint64_t offset, const char *format, ...)
{
    size_t known = snap->fault_count < LG_MAX_FAULTS ? snap->fault_count : LG_MAX_FAULTS;
    for (size_t i = 0; i < known; i++) {
        if (snap->faults[i].offset == offset) {
            return;
        }
    }
    if (snap->fault_count < LG_MAX_FAULTS) {
        struct lg_fault *fault = &snap->faults[snap->fault_count];
        va_list args;
        va_start(args, format);
        fault->offset = offset;
        vsnprintf(fault->what, sizeof(fault->what), format, args);
        va_end(args);
    }
    snap->fault_count++;
}

/* Maps or images a live segment, reads a dead one. */
static int
take_bytes(struct lg_snapshot *snap)
{
    uint64_t size = snap->source.file_size;
    uint64_t wanted = snap->source.geo.header.segment_size;
    snap->byte_count = (size_t)(size < wanted ? size : wanted) & ~(size_t)7;
    if (snap->live && snap->unmapped) {
        /* Zeroes where nothing is used: those pages are never touched. */
        snap->image = calloc(1, snap->byte_count + 8);
        snap->bytes = snap->image;
        return snap->image != NULL ? take_image(snap, LG_IMAGE_ALL) : -ENOMEM;
    }
    if (snap->live) {
        void *map = mmap(NULL, snap->byte_count, PROT_READ, MAP_SHARED, snap->source.fd, 0);
        if (map == MAP_FAILED) {
            snap->live = false;
            return -errno;
        }
        snap->bytes = map;
        return 0;
    }
    uint8_t *copy = aligned_alloc(64, (snap->byte_count + 63) & ~(size_t)63);
    if (copy == NULL) {
        return -ENOMEM;
    }
    snap->bytes = copy;
    return read_file(snap->source.fd, copy, snap->byte_count);
}

static int
read_file(int fd, uint8_t *to, size_t size)
{
    size_t got = 0;
    while (got < size) {
        ssize_t n = pread(fd, to + got, size - got, (off_t)got);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -errno;
        }
        if (n == 0) {
            return LG_ETRUNCATED;       /* shorter than a moment ago */
        }
        got += (size_t)n;
    }
    return 0;
}

/* Memory for every table that the segment has, once. */
static int
take_memory(struct lg_snapshot *snap)
{
    uint32_t cells = 0;
    uint32_t loop_cells = 0;
    uint32_t strings = 0;
    uint32_t endpoint_slots = 0;
    uint32_t loop_slots = 0;
    int bad = 0;
    bad |= usable(snap, LG_SEC_FEATURES, sizeof(struct lg_feature), &snap->feature_count);
    bad |= usable(snap, LG_SEC_WRITERS, sizeof(struct lg_writer), &snap->writer_count);
    bad |= usable(snap, LG_SEC_STRINGS, 1, &strings);
    bad |= usable(snap, LG_SEC_ENDPOINTS, sizeof(struct lg_endpoint), &endpoint_slots);
    bad |= usable(snap, LG_SEC_HISTS, sizeof(struct lg_hist), &snap->hist_count);
    bad |= usable(snap, LG_SEC_LOOPS, sizeof(struct lg_loop_entry), &loop_slots);
    bad |= usable(snap, LG_SEC_ENDPOINT_HISTORY, sizeof(struct lg_cell), &cells);
    bad |= usable(snap, LG_SEC_LOOP_HISTORY, sizeof(struct lg_loop_cell), &loop_cells);
    bad |= usable(snap, LG_SEC_STALLS, sizeof(struct lg_stall), &snap->stall_count);
    bad |= usable(snap, LG_SEC_STACKS, sizeof(struct lg_stack), &snap->stack_count);
    bad |= usable(snap, LG_SEC_FRAMES, sizeof(struct lg_frame), &snap->frame_count);
    (void)bad;                          /* what is missing stands in snap->missing */
    uint32_t unused;
    (void)usable(snap, LG_SEC_ANCHOR, sizeof(struct lg_anchor), &unused);
    (void)usable(snap, LG_SEC_SELF, sizeof(struct lg_self), &unused);
    (void)usable(snap, LG_SEC_TABLES, sizeof(struct lg_tables), &unused);
    (void)usable(snap, LG_SEC_POOL, sizeof(struct lg_pool), &unused);
    (void)usable(snap, LG_SEC_RING_HEADS, sizeof(struct lg_ring), &unused);
    (void)usable(snap, LG_SEC_RING_SLOTS, sizeof(struct lg_slot), &unused);
    /* The numbering of HISTS counts whole tables, cut or not. */
    snap->endpoint_slots = snap->endpoint_slots != 0 ? snap->endpoint_slots : endpoint_slots;
    snap->loop_slots = snap->loop_slots != 0 ? snap->loop_slots : loop_slots;
    snap->stall_slots = snap->stall_slots != 0 ? snap->stall_slots : snap->stall_count;
    snap->endpoint_history_count = cells / LG_CELLS;
    snap->loop_history_count = loop_cells / LG_LOOP_CELLS;
    uint32_t loops = loop_slots < LG_VIEW_LOOPS ? loop_slots : LG_VIEW_LOOPS;
    snap->text_slots = strings / 8 + 1;
    size_t again = LG_LOOP_CELLS * sizeof(struct lg_loop_cell);
#define TAKE(field, n) ((snap->field = calloc((size_t)(n) + 1, sizeof(*snap->field))) == NULL)
    bool failed = TAKE(features, snap->feature_count) || TAKE(writers, snap->writer_count) ||
                  TAKE(strings, strings) || TAKE(endpoints, endpoint_slots) ||
                  TAKE(endpoint_dirty, endpoint_slots) || TAKE(endpoint_bad, endpoint_slots) ||
                  TAKE(hists, snap->hist_count) || TAKE(loops, loops) || TAKE(loop_torn, loops) ||
                  TAKE(endpoint_history, (size_t)snap->endpoint_history_count * LG_CELLS) ||
                  TAKE(loop_history, (size_t)snap->loop_history_count * LG_LOOP_CELLS) ||
                  TAKE(stalls, snap->stall_count) || TAKE(stall_torn, snap->stall_count) ||
                  TAKE(stall_open, snap->stall_count) || TAKE(stacks, snap->stack_count) ||
                  TAKE(frames, snap->frame_count) || TAKE(texts, snap->text_slots) ||
                  TAKE(again, again);
#undef TAKE
    if (failed) {
        return -ENOMEM;
    }
    if (!has(snap, LG_SEC_RING_HEADS) || !has(snap, LG_SEC_RING_SLOTS)) {
        return 0;
    }
    /* Capacities are fixed when the ring is made; read them once, now. */
    const struct lg_extent *heads = &snap->source.geo.section[LG_SEC_RING_HEADS];
    uint32_t slots = snap->source.geo.section[LG_SEC_RING_SLOTS].count;
    for (uint32_t i = 0; i < LG_RINGS && i < heads->count; i++) {
        struct lg_ring head;
        if (lg_copy(&head, at(snap, LG_SEC_RING_HEADS, i), sizeof(head)) != 0) {
            return LG_ETRUNCATED;
        }
        if (head.capacity == 0) {
            continue;
        }
        if (!lg_ring_fits(&head, slots)) {
            if ((snap->cut_sections & 1u << LG_SEC_RING_SLOTS) == 0) {
                lg_snapshot_fault(snap, heads->offset + (uint64_t)i * heads->stride,
                                  "ring %u: its slots reach beyond the table", i);
            }
            continue;
        }
        struct lg_records *records = &snap->rings[i];
        records->record = calloc(head.capacity, sizeof(*records->record));
        if (records->record == NULL) {
            return -ENOMEM;
        }
        records->capacity = head.capacity;
        records->first_slot = head.first_slot;
        records->ring_class = head.ring_class;
        records->writer = head.writer;
    }
    return 0;
}

/* Elements of a section that may be used; notes why not. */
static int
usable(struct lg_snapshot *snap, uint32_t kind, size_t element, uint32_t *count)
{
    const struct lg_extent *x = &snap->source.geo.section[kind];
    *count = 0;
    if (x->count > 0 && x->known < element) {
        /* No layout has smaller elements than 1.0. */
        lg_snapshot_fault(snap, x->offset, "section %u: elements of %u bytes, %zu expected", kind,
                          x->stride, element);
    }
    if (x->count == 0 || x->known < element || x->count > MAX_COUNT * 16u) {
        snap->missing |= 1u << kind;
        snap->source.geo.section[kind].count = 0;
        return 1;
    }
    *count = x->count;
    return 0;
}

/* Which sections the end of the file cuts: geometry has clipped them. */
static void
note_cut(struct lg_snapshot *snap)
{
    const struct lg_geometry *geo = &snap->source.geo;
    struct lg_section table[LG_MAX_SECTIONS];
    size_t bytes = geo->header.section_count * sizeof(table[0]);
    if (geo->cut_sections == 0 ||
        lg_copy(table, snap->bytes + sizeof(struct lg_header), bytes) != 0) {
        return;
    }
    for (uint32_t i = 0; i < geo->header.section_count; i++) {
        uint64_t end = table[i].offset + table[i].length;
        if (table[i].kind >= LG_MAX_SECTIONS || end <= snap->source.file_size) {
            continue;
        }
        snap->cut_sections |= 1u << table[i].kind;
        if (table[i].kind == LG_SEC_ENDPOINTS) {
            snap->endpoint_slots = table[i].count;
        }
        if (table[i].kind == LG_SEC_LOOPS) {
            snap->loop_slots = table[i].count;
        }
        if (table[i].kind == LG_SEC_STALLS) {
            snap->stall_slots = table[i].count;
        }
    }
}

/* `kinds`: what an image has to be copied again for it. */
static int
run(struct lg_snapshot *snap, uint32_t kinds, void (*take)(void *))
{
    struct stat st;
    if (!image_again(snap, kinds)) {
        snap->cut = true;
    }
    if (snap->live && !snap->cut &&
        (fstat(snap->source.fd, &st) < 0 || (uint64_t)st.st_size < snap->byte_count)) {
        snap->cut = true;
    }
    if (!snap->cut && lg_copy_run(snap->bytes, snap->byte_count, take, snap) != 0) {
        snap->cut = true;
    }
    return snap->cut ? LG_ETRUNCATED : 0;
}

static bool
image_again(struct lg_snapshot *snap, uint32_t kinds)
{
    return snap->image == NULL || kinds == 0 || snap->cut || take_image(snap, kinds) == 0;
}

static int
take_image(struct lg_snapshot *snap, uint32_t kinds)
{
    /* A last odd bit of STRINGS may lie behind the whole words. */
    return lg_image_take(snap->source.fd, &snap->source.geo, kinds, snap->image,
                         snap->byte_count + 8);
}

static void
take_all(void *arg)
{
    struct lg_snapshot *snap = arg;
    snap->unclean_rows = 0;
    take_head(snap);
    take_tables(snap);
    take_loops(snap);
    copy_elements(snap, LG_SEC_SELF, 0, 1, sizeof(snap->self), &snap->self);
    take_rings(snap);
    take_stalls(snap);
    copy_elements(snap, LG_SEC_POOL, 0, 1, sizeof(snap->pool), &snap->pool);
    copy_elements(snap, LG_SEC_FEATURES, 0, snap->feature_count, sizeof(struct lg_feature),
                  snap->features);
    copy_elements(snap, LG_SEC_WRITERS, 0, snap->writer_count, sizeof(struct lg_writer),
                  snap->writers);
    take_tables(snap);
    take_endpoints(snap);
    take_hists(snap);
    take_history(snap);
    copy_elements(snap, LG_SEC_STACKS, 0, snap->tables.stacks_used, sizeof(struct lg_stack),
                  snap->stacks);
    take_tables(snap);
    copy_elements(snap, LG_SEC_FRAMES, 0, snap->tables.frames_used, sizeof(struct lg_frame),
                  snap->frames);
    take_tables(snap);
    take_strings(snap);
}

static void
take_loops_only(void *arg)
{
    struct lg_snapshot *snap = arg;
    take_head(snap);
    take_tables(snap);
    take_loops(snap);
}

/* The header's state and the anchor. */
static void
take_head(struct lg_snapshot *snap)
{
    uint64_t word;
    uint64_t anchor[sizeof(struct lg_anchor) / 8];
    lg_copy(&word, snap->bytes + offsetof(struct lg_header, crc32c), sizeof(word));
    snap->state = (uint32_t)(word >> 32);
    if (has(snap, LG_SEC_ANCHOR) && (lg_seq_read((const uint64_t *)at(snap, LG_SEC_ANCHOR, 0),
                                                 anchor, sizeof(anchor) / 8, TRIES) ||
                                     !snap->filled)) {
        memcpy(&snap->anchor, anchor, sizeof(snap->anchor));
    }
}

static void
take_tables(struct lg_snapshot *snap)
{
    struct lg_tables t = {
        .strings_used = UINT64_MAX,
        .endpoints_used = UINT64_MAX,
        .stacks_used = UINT64_MAX,
        .frames_used = UINT64_MAX,
        .loops_used = UINT64_MAX,
    };
    if (has(snap, LG_SEC_TABLES)) {
        copy_elements(snap, LG_SEC_TABLES, 0, 1, sizeof(t), &t);
        /* What the numbers count was stored before them: pairs with the
         * writer's release stores. */
        lg_fence_acquire();
    }
    const struct lg_extent *x = snap->source.geo.section;
#define CLIP(field, limit, what) \
    snap->tables.field = clipped(snap, t.field, limit, offsetof(struct lg_tables, field), what)
    CLIP(strings_used, x[LG_SEC_STRINGS].count & ~7u, "strings");
    CLIP(endpoints_used, x[LG_SEC_ENDPOINTS].count, "endpoints");
    CLIP(stacks_used, x[LG_SEC_STACKS].count, "stacks");
    CLIP(frames_used, x[LG_SEC_FRAMES].count, "frames");
    CLIP(loops_used, x[LG_SEC_LOOPS].count, "loops");
#undef CLIP
    snap->tables.stalls_head = t.stalls_head;
    if ((snap->cut_sections & 1u << LG_SEC_ENDPOINTS) != 0 && has(snap, LG_SEC_TABLES)) {
        uint64_t used =
            t.endpoints_used < snap->endpoint_slots ? t.endpoints_used : snap->endpoint_slots;
        snap->cut_endpoints = used - snap->tables.endpoints_used;
    }
    if (snap->tables.loops_used > LG_VIEW_LOOPS) {
        snap->tables.loops_used = LG_VIEW_LOOPS;
    }
}

/* A count beyond its table is damage, unless the table itself was cut. */
static uint64_t
clipped(struct lg_snapshot *snap, uint64_t n, uint64_t limit, size_t field, const char *what)
{
    if (n <= limit) {
        return n;
    }
    if (has(snap, LG_SEC_TABLES) && snap->cut_sections == 0 && limit != 0) {
        lg_snapshot_fault(snap, snap->source.geo.section[LG_SEC_TABLES].offset + field,
                          "%s in use: more than the table holds", what);
    }
    return limit;
}

static void
take_loops(struct lg_snapshot *snap)
{
    snap->loop_count = (uint32_t)snap->tables.loops_used;
    for (uint32_t i = 0; i < snap->loop_count; i++) {
        snap->loop_torn[i] = !take_loop(snap, i, &snap->loops[i]);
    }
}

/* Line A by its sequence, the rest as loose words. */
static bool
take_loop(struct lg_snapshot *snap, uint32_t index, struct lg_loop_entry *out)
{
    const uint64_t *from = (const uint64_t *)at(snap, LG_SEC_LOOPS, index);
    uint64_t words[sizeof(*out) / 8];
    lg_copy(words, from, sizeof(words));
    /* Line A last: what the others say belongs to this step or an older. */
    bool whole = lg_seq_read(from, words, 8, TRIES);
    memcpy(out, words, sizeof(*out));
    return whole;
}

static void
take_rings(struct lg_snapshot *snap)
{
    if (!has(snap, LG_SEC_RING_HEADS) || !has(snap, LG_SEC_RING_SLOTS)) {
        return;
    }
    for (uint32_t i = 0; i < LG_RINGS; i++) {
        if (snap->rings[i].capacity != 0) {
            take_ring(snap, i, (const struct lg_ring *)at(snap, LG_SEC_RING_HEADS, i));
        }
    }
}

static void
take_ring(struct lg_snapshot *snap, uint32_t index, const struct lg_ring *head)
{
    struct lg_records *ring = &snap->rings[index];
    const struct lg_slot *slots = (const struct lg_slot *)at(snap, LG_SEC_RING_SLOTS, 0);
    const struct lg_extent *x = &snap->source.geo.section[LG_SEC_RING_SLOTS];
    if (x->stride != sizeof(struct lg_slot)) {
        return;                         /* a newer minor's slots: not ours to walk */
    }
    enum lg_ring_mode mode = snap->live ? LG_RING_LIVE : LG_RING_DEAD;
    uint64_t to = lg_load_acquire(&head->head);
    ring->first = lg_load_relaxed(&head->first);
    if (!snap->filled) {
        /* The oldest slots of a live ring may go while we look at them. */
        uint64_t margin = snap->live ? ring->capacity / 16 : 0;
        uint64_t back = ring->capacity - margin;
        ring->cursor = (struct lg_cursor){.next = to > back ? to - back : 0};
        ring->from = ring->cursor.next > ring->first ? ring->cursor.next : ring->first;
    }
    uint64_t lapped = ring->cursor.lapped;
    struct lg_record rec;
    /* At most one turn of the ring a tick: a writer that is faster than we
     * are must not hold us. */
    for (uint64_t n = 0; n < 2 * ring->capacity; n++) {
        if (!lg_ring_read(head, slots + ring->first_slot, ring->capacity, mode, &ring->cursor,
                          &rec)) {
            break;
        }
        ring->record[rec.ticket & (ring->capacity - 1)] = rec;
    }
    ring->to = ring->cursor.next;
    if (ring->to - ring->from > ring->capacity) {
        ring->from = ring->to - ring->capacity;
    }
    if (snap->filled && ring->ring_class == LG_RING_RARE) {
        snap->records_lost += ring->cursor.lapped - lapped;
    }
    if (ring->cursor.damaged) {
        lg_snapshot_fault(snap,
                          x->offset +
                              (ring->first_slot + (ring->cursor.next & (ring->capacity - 1))) *
                                  sizeof(struct lg_slot),
                          "ring %u: a sequence that no writer makes", index);
    }
}

static void
take_stalls(struct lg_snapshot *snap)
{
    uint64_t head = snap->tables.stalls_head;
    if (snap->stall_count == 0) {
        return;
    }
    if (!has(snap, LG_SEC_TABLES)) {
        /* No head to go by: each slot says its own ticket. */
        for (uint32_t i = 0; i < snap->stall_count; i++) {
            take_stall(snap, i, LG_NONE);
        }
        return;
    }
    uint64_t from = snap->stalls_seen;
    if (head < from) {
        from = 0;                       /* damage, or another instance: all anew */
    }
    if (head - from > snap->stall_slots) {
        snap->stalls_lost += snap->filled ? head - from - snap->stall_slots : 0;
        from = head - snap->stall_slots;
    }
    for (uint64_t t = from; t < head; t++) {
        if (slot_of(snap, t) != NO_SLOT) {
            take_stall(snap, slot_of(snap, t), t);
        }
    }
    for (uint32_t i = 0; i < snap->stall_count && snap->filled; i++) {
        if (snap->stall_open[i] && snap->stalls[i].ticket != 0) {
            take_stall(snap, i, snap->stalls[i].ticket - 1);
        }
    }
    snap->stalls_seen = head;
}

/* `ticket` LG_NONE: whatever stands there. */
static void
take_stall(struct lg_snapshot *snap, uint32_t slot, uint64_t ticket)
{
    uint64_t words[sizeof(struct lg_stall) / 8];
    struct lg_stall *out = &snap->stalls[slot];
    bool whole = lg_seq_read((const uint64_t *)at(snap, LG_SEC_STALLS, slot), words,
                             sizeof(words) / 8, TRIES);
    memcpy(out, words, sizeof(*out));
    snap->stall_torn[slot] = !whole;
    /* Another ticket: not written yet, or overwritten already. */
    bool wanted = out->ticket != 0 && (ticket == LG_NONE ? slot_of(snap, out->ticket - 1) == slot
                                                         : out->ticket == ticket + 1);
    snap->stall_open[slot] = !whole || !wanted || (LG_INFO_FLAGS(out->info) & LG_STALL_ONGOING);
    if (!wanted) {
        out->ticket = ticket == LG_NONE || snap->live ? 0 : out->ticket;
        if (out->ticket != 0) {
            lg_snapshot_fault(snap,
                              snap->source.geo.section[LG_SEC_STALLS].offset +
                                  (uint64_t)slot * snap->source.geo.section[LG_SEC_STALLS].stride,
                              "stall %u: not the ticket that belongs there", slot);
            out->ticket = 0;
        }
    }
    snap->unclean_rows += snap->live && !whole;
}

static void
take_endpoints(struct lg_snapshot *snap)
{
    uint32_t count = (uint32_t)snap->tables.endpoints_used;
    for (uint32_t i = 0; i < count; i++) {
        struct lg_endpoint now;
        struct lg_endpoint *was = &snap->endpoints[i];
        copy_elements(snap, LG_SEC_ENDPOINTS, i, 1, sizeof(now), &now);
        bool moved = i >= snap->endpoint_count || now.steps != was->steps ||
                     now.requests != was->requests || now.blocks != was->blocks;
        /* Two ticks: the counter may be seen before the bucket. */
        snap->endpoint_dirty[i] = moved ? 2
                                  : snap->endpoint_dirty[i] > 0
                                      ? (uint8_t)(snap->endpoint_dirty[i] - 1)
                                      : 0;
        *was = now;
    }
    snap->endpoint_count = count;
}

/* Names that cannot be had. After the run: it may allocate. */
static void
check_endpoints(struct lg_snapshot *snap)
{
    const struct lg_extent *x = &snap->source.geo.section[LG_SEC_ENDPOINTS];
    snap->bad_endpoints = 0;
    for (uint32_t i = 0; i < snap->endpoint_count; i++) {
        uint64_t key = snap->endpoints[i].key;
        snap->endpoint_bad[i] = key == 0 || !lg_snapshot_text_ok(snap, LG_KEY_NAME(key));
        if (!snap->endpoint_bad[i]) {
            continue;
        }
        if (key == 0 && !has(snap, LG_SEC_TABLES)) {
            continue;                   /* a free slot: nothing told us where to stop */
        }
        snap->bad_endpoints++;
        lg_snapshot_fault(
            snap, x->offset + (uint64_t)i * x->stride,
            key == 0 ? "endpoint %u: no key" : "endpoint %u: name reaches beyond the table", i);
    }
}

static void
take_hists(struct lg_snapshot *snap)
{
    for (uint32_t i = 0; i < snap->endpoint_count; i++) {
        if (snap->endpoint_dirty[i] > 0) {
            take_hist(snap, LG_HIST_RESPONSE(i));
            take_hist(snap, LG_HIST_ON_LOOP(i));
        }
    }
    for (uint32_t i = 0; i < snap->loop_count; i++) {
        take_hist(snap, LG_HIST_LAG(snap->endpoint_slots, i));
    }
    take_hist(snap, LG_HIST_POOL_WAIT(snap->endpoint_slots, snap->loop_slots));
}

static void
take_hist(struct lg_snapshot *snap, uint32_t index)
{
    struct lg_hist now;
    if (index >= snap->hist_count) {
        return;
    }
    copy_elements(snap, LG_SEC_HISTS, index, 1, sizeof(now), &now);
    if (snap->filled && snap->deltas != NULL &&
        !lg_deltas_add(snap->deltas, index, &snap->hists[index], &now)) {
        lg_snapshot_fault(snap,
                          snap->source.geo.section[LG_SEC_HISTS].offset +
                              (uint64_t)index * snap->source.geo.section[LG_SEC_HISTS].stride,
                          "histogram %u: a count went back", index);
    }
    snap->hists[index] = now;
}

static void
take_history(struct lg_snapshot *snap)
{
    for (uint32_t i = 0; i < snap->endpoint_count && i < snap->endpoint_history_count; i++) {
        if (snap->endpoint_dirty[i] > 0) {
            take_cells(snap, LG_SEC_ENDPOINT_HISTORY, (uint64_t)i * LG_CELLS, LG_CELLS,
                       sizeof(struct lg_cell), (uint8_t *)&snap->endpoint_history[i * LG_CELLS]);
        }
    }
    for (uint32_t i = 0; i < snap->loop_count && i < snap->loop_history_count; i++) {
        take_cells(snap, LG_SEC_LOOP_HISTORY, (uint64_t)i * LG_LOOP_CELLS, LG_LOOP_CELLS,
                   sizeof(struct lg_loop_cell), (uint8_t *)&snap->loop_history[i * LG_LOOP_CELLS]);
    }
}

/* Cells are no seqlock: one whose second changed between two copies may hold
 * numbers of both and counts as empty this time. */
static void
take_cells(struct lg_snapshot *snap, uint32_t kind, uint64_t first, uint32_t count, size_t cell,
           uint8_t *to)
{
    copy_elements(snap, kind, first, count, cell, to);
    if (!snap->live) {
        return;
    }
    lg_fence_acquire();                 /* the second copy is not older than the first */
    copy_elements(snap, kind, first, count, cell, snap->again);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t before;
        uint64_t after;
        memcpy(&before, to + i * cell, sizeof(before));
        memcpy(&after, snap->again + i * cell, sizeof(after));
        if (LG_LO(before) != LG_LO(after)) {
            memset(to + i * cell, 0, cell);
        }
    }
}

/* Append-only: only what is new. */
static void
take_strings(struct lg_snapshot *snap)
{
    uint64_t used = snap->tables.strings_used;
    if (!has(snap, LG_SEC_STRINGS) || used <= snap->strings_used) {
        return;
    }
    used &= ~UINT64_C(7);
    lg_copy(snap->strings + snap->strings_used, at(snap, LG_SEC_STRINGS, 0) + snap->strings_used,
            used - snap->strings_used);
    snap->strings_used = used;
}

/* Elements as this program knows them: a newer minor's may be longer. Counts
 * were clipped to the extents, which lie within the file. */
static void
copy_elements(struct lg_snapshot *snap, uint32_t kind, uint64_t first, uint64_t count,
              size_t element, void *to)
{
    const struct lg_extent *x = &snap->source.geo.section[kind];
    if (x->count == 0 || count == 0) {
        return;
    }
    assert(first < x->count && count <= x->count - first);
    if (x->stride == element) {
        lg_copy(to, at(snap, kind, first), count * element);
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        lg_copy((uint8_t *)to + i * element, at(snap, kind, first + i), element);
    }
}

static const uint8_t *
at(const struct lg_snapshot *snap, uint32_t kind, uint64_t index)
{
    const struct lg_extent *x = &snap->source.geo.section[kind];
    assert(x->offset + (index + 1) * x->stride <= snap->byte_count);
    return snap->bytes + x->offset + index * x->stride;
}

static bool
has(const struct lg_snapshot *snap, uint32_t kind)
{
    return snap->source.geo.section[kind].count > 0;
}
