/*
 * record.c - endpoint counters, history cells, names, stacks, ring records.
 *
 * Rooms that may enter and the rule of the two threads: record.h.
 */
#include "record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../common/lg_clock.h"
#include "text.h"

#define STRING_SLOTS 16384u             /* powers of two, > entries that can be */
#define FRAME_SLOTS 16384u
#define STACK_SLOTS 1024u
/* Longer than it takes to intern a frame; a name is new but once. */
#define TRIES 2000

static uint64_t hash_bytes(const void *data, size_t length, uint64_t seed);
static struct lg_name_slot *name_find(struct lg_name_slot *table, uint32_t slots, uint64_t hash);
static uint32_t intern_string(struct lg_recorder *rec, const char *text, size_t length);
static uint32_t intern_endpoint(struct lg_recorder *rec, uint64_t key, uint64_t now_ns);
static bool names_enter(struct lg_recorder *rec, enum lg_wait wait);
static void names_give_way(struct lg_recorder *rec);
static void table_full(struct lg_recorder *rec, enum lg_section_kind kind, uint64_t *counter);
static struct lg_cell *cell_at(struct lg_recorder *rec, uint32_t endpoint, uint32_t index,
                               uint32_t number);
static void cells_step(struct lg_recorder *rec, uint32_t endpoint, uint64_t start_ns,
                       uint64_t end_ns);
static void cells_add(struct lg_recorder *rec, uint32_t endpoint, uint64_t second,
                      const uint32_t add[6]);
static void pair_add(uint64_t *word, uint64_t lo, uint64_t hi);
static uint32_t add_sat(uint32_t a, uint64_t b);
static uint64_t us_between(uint64_t from_ns, uint64_t to_ns);
static struct lg_loop_cell *loop_cell_at(struct lg_recorder *rec, uint32_t loop, uint32_t second);
static void busy_before(struct lg_recorder *rec, uint32_t loop, uint64_t start_ns, uint64_t last);
static uint32_t endpoint_slots(const struct lg_recorder *rec);

/* ---- life -------------------------------------------------------------- */

int
lg_record_open(struct lg_recorder *rec, const struct lg_segment_options *options)
{
    memset(rec, 0, sizeof(*rec));
    int err = lg_segment_create(options, &rec->seg);
    if (err != 0) {
        return err;
    }
    rec->strings = calloc(STRING_SLOTS, sizeof(*rec->strings));
    rec->endpoints = calloc(endpoint_slots(rec), sizeof(*rec->endpoints));
    rec->endpoint_keys = calloc(rec->seg.endpoint_count, sizeof(*rec->endpoint_keys));
    rec->frames = calloc(FRAME_SLOTS, sizeof(*rec->frames));
    rec->stacks = calloc(STACK_SLOTS, sizeof(*rec->stacks));
    if (rec->strings == NULL || rec->endpoints == NULL || rec->frames == NULL ||
        rec->stacks == NULL || rec->endpoint_keys == NULL) {
        lg_record_close(rec, false);
        return -ENOMEM;
    }
    err = pthread_mutex_init(&rec->names, NULL);
    if (err != 0) {
        lg_record_close(rec, false);
        return -err;
    }
    static const uint64_t capacity[3] = {LG_RING_SLOTS_REQUESTS, LG_RING_SLOTS_EVENTS,
                                         LG_RING_SLOTS_REST};
    static const enum lg_ring_class ring_class[3] = {LG_RING_BULK, LG_RING_RARE, LG_RING_RARE};
    uint64_t first_slot = 0;
    for (uint32_t i = 0; i < 3; i++) {
        lg_ring_init(&rec->ring[i], &rec->seg.rings[i], rec->seg.slots, first_slot, capacity[i],
                     ring_class[i]);
        first_slot += capacity[i];
    }
    rec->endpoints_used = 1;
    rec->stacks_used = 1;
    uint64_t now = lg_now_ns();
    (void)lg_record_endpoint(rec, LG_KIND_LOOP, LG_METHOD_NONE, "(loop)", 6, now, LG_WAIT);
    return 0;
}

void
lg_record_close(struct lg_recorder *rec, bool keep)
{
    if (rec->seg.base != NULL) {
        lg_segment_close(&rec->seg, keep);
    }
    lg_record_forget(rec);
}

void
lg_record_leave(struct lg_recorder *rec, bool keep)
{
    void *base = rec->seg.base;
    size_t size = rec->seg.size;
    lg_segment_leave(&rec->seg, keep);
    /* A late word goes nowhere, and the shared pages are given back. On failure
     * they stay as they are. */
    if (base != NULL) {
        (void)mmap(base, size, PROT_READ | PROT_WRITE,
                   MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    lg_record_forget(rec);
}

void
lg_record_forget(struct lg_recorder *rec)
{
    if (rec->seg.base != NULL) {
        lg_segment_forget(&rec->seg);
    }
    free(rec->strings);
    free(rec->endpoints);
    free(rec->endpoint_keys);
    free(rec->frames);
    free(rec->stacks);
    memset(rec, 0, sizeof(*rec));
}

/* ---- names ------------------------------------------------------------- */

uint32_t
lg_record_string(struct lg_recorder *rec, const char *text, size_t length, enum lg_wait wait)
{
    if (length == 0 || !names_enter(rec, wait)) {
        return 0;
    }
    uint32_t id = intern_string(rec, text, length);
    pthread_mutex_unlock(&rec->names);
    return id;
}

int
lg_record_endpoint(struct lg_recorder *rec, enum lg_endpoint_kind kind, enum lg_method method,
                   const char *name, size_t length, uint64_t now_ns, enum lg_wait wait)
{
    if (!names_enter(rec, wait)) {
        return -1;
    }
    uint32_t name_id = intern_string(rec, name, length);
    uint32_t index = name_id == 0
                         ? LG_ENDPOINT_OTHER
                         : intern_endpoint(rec, LG_ENDPOINT_KEY(name_id, kind, method), now_ns);
    pthread_mutex_unlock(&rec->names);
    return (int)index;
}

int
lg_record_twin(struct lg_recorder *rec, uint32_t endpoint, enum lg_endpoint_kind kind,
               uint64_t now_ns, enum lg_wait wait)
{
    if (!names_enter(rec, wait)) {
        return -1;
    }
    uint64_t key = rec->endpoint_keys[endpoint];
    uint32_t index =
        intern_endpoint(rec, LG_ENDPOINT_KEY(LG_KEY_NAME(key), kind, LG_KEY_METHOD(key)), now_ns);
    pthread_mutex_unlock(&rec->names);
    return (int)index;
}

/* With the names locked. LG_ENDPOINT_OTHER when the table is full. */
static uint32_t
intern_endpoint(struct lg_recorder *rec, uint64_t key, uint64_t now_ns)
{
    uint64_t hash = hash_bytes(&key, sizeof(key), 1);
    struct lg_name_slot *slot = name_find(rec->endpoints, endpoint_slots(rec), hash);
    if (slot->hash != 0) {
        return slot->id;
    }
    if (rec->endpoints_used >= rec->seg.endpoint_count) {
        table_full(rec, LG_SEC_ENDPOINTS, &rec->seg.self->endpoint_overflow);
        return LG_ENDPOINT_OTHER;
    }
    uint32_t index = rec->endpoints_used++;
    slot->hash = hash;
    slot->id = index;
    rec->endpoint_keys[index] = key;
    struct lg_endpoint *e = &rec->seg.endpoints[index];
    lg_store_relaxed(&e->first_seen_ns, now_ns);
    /* A reader that sees the key sees first_seen too; it also makes the row
     * exist. Pairs with the reader's acquire fence after its copy. */
    lg_store_release(&e->key, key);
    lg_store_release(&rec->seg.tables->endpoints_used, rec->endpoints_used);
    return index;
}

static bool
names_enter(struct lg_recorder *rec, enum lg_wait wait)
{
    if (wait == LG_WAIT) {
        return pthread_mutex_lock(&rec->names) == 0;
    }
    if (pthread_mutex_trylock(&rec->names) == 0) {
        return true;
    }
    lg_store32_relaxed(&rec->names_wanted, 1);
    bool entered = false;
    for (int i = 0; i < TRIES && !entered; i++) {
        entered = pthread_mutex_trylock(&rec->names) == 0;
    }
    lg_store32_relaxed(&rec->names_wanted, 0);
    if (!entered) {
        lg_add_single(&rec->seg.self->intern_busy, 1);
    }
    return entered;
}

/* The watchdog, between two frames of a stack: a loop thread that tries goes
 * first. Not for ever: it may have been kept from running just then. */
static void
names_give_way(struct lg_recorder *rec)
{
    pthread_mutex_unlock(&rec->names);
    for (int i = 0; i < TRIES && lg_load32_relaxed(&rec->names_wanted) != 0; i++) {}
    pthread_mutex_lock(&rec->names);
}

static uint32_t
intern_string(struct lg_recorder *rec, const char *text, size_t length)
{
    if (length > LG_MAX_STRING) {
        length = LG_MAX_STRING;
        while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80) {
            length--;                   /* UTF-8 is cut between characters */
        }
        lg_add_single(&rec->seg.self->string_truncated, 1);
    }
    uint64_t hash = hash_bytes(text, length, 0);
    struct lg_name_slot *slot = name_find(rec->strings, STRING_SLOTS, hash);
    if (slot->hash != 0) {
        return slot->id;
    }
    uint32_t id = lg_strings_append(&rec->seg, text, length);
    if (id == 0) {
        table_full(rec, LG_SEC_STRINGS, &rec->seg.self->string_overflow);
        return 0;
    }
    slot->hash = hash;
    slot->id = id;
    return id;
}

/* The 64-bit hash stands for the text: the tables hold at most some thousand
 * names, so two of one hash are not to be expected in the life of a fleet. */
static struct lg_name_slot *
name_find(struct lg_name_slot *table, uint32_t slots, uint64_t hash)
{
    uint32_t at = (uint32_t)hash & (slots - 1);
    while (table[at].hash != 0 && table[at].hash != hash) {
        at = (at + 1) & (slots - 1);
    }
    return &table[at];
}

/* FNV-1a with a final mix, never 0 (0 marks a free slot). */
static uint64_t
hash_bytes(const void *data, size_t length, uint64_t seed)
{
    const unsigned char *p = data;
    uint64_t h = UINT64_C(0xcbf29ce484222325) ^ (seed * UINT64_C(0x9e3779b97f4a7c15));
    for (size_t i = 0; i < length; i++) {
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    }
    h ^= h >> 32;
    h *= UINT64_C(0xd6e8feb86659fd93);
    h ^= h >> 32;
    return h | 1;
}

static uint32_t
endpoint_slots(const struct lg_recorder *rec)
{
    uint32_t slots = 64;
    while (slots < rec->seg.endpoint_count * 2) {
        slots *= 2;
    }
    return slots;
}

/* Counted each time, told once in the ring of rare records. */
static void
table_full(struct lg_recorder *rec, enum lg_section_kind kind, uint64_t *counter)
{
    lg_add_single(counter, 1);
    rec->overflow_told |= UINT64_C(1) << kind;
}

/* ---- stacks ------------------------------------------------------------ */

uint32_t
lg_record_stack(struct lg_recorder *rec, const struct lg_plain_frame *frames, uint32_t depth,
                uint32_t endpoint, uint32_t flags, uint64_t now_ns)
{
    if (depth == 0 || !names_enter(rec, LG_WAIT)) {
        return 0;
    }
    if (depth > LG_MAX_DEPTH) {
        depth = LG_MAX_DEPTH;
    }
    uint32_t next = 0;                  /* outermost first: next < own index */
    for (uint32_t i = depth; i-- > 0;) {
        struct lg_frame f = {
            .file = intern_string(rec, frames[i].file, strlen(frames[i].file)),
            .function = intern_string(rec, frames[i].function, strlen(frames[i].function)),
            .line = frames[i].line,
            .next = next,
        };
        struct lg_name_slot *slot =
            name_find(rec->frames, FRAME_SLOTS, hash_bytes(&f, sizeof(f), 2));
        if (slot->hash == 0) {
            uint32_t index = lg_frames_append(&rec->seg, f.file, f.function, f.line, f.next);
            if (index == 0) {
                table_full(rec, LG_SEC_FRAMES, &rec->seg.self->frame_overflow);
                break;
            }
            slot->hash = hash_bytes(&f, sizeof(f), 2);
            slot->id = index;
        }
        next = slot->id;
        names_give_way(rec);
    }
    uint64_t key[2] = {next, endpoint};
    uint64_t hash = hash_bytes(key, sizeof(key), 3);
    struct lg_name_slot *slot = name_find(rec->stacks, STACK_SLOTS, hash);
    uint32_t index = 0;
    if (slot->hash != 0) {
        index = slot->id;
    }
    else if (rec->stacks_used < rec->seg.stack_count) {
        index = rec->stacks_used++;
        slot->hash = hash;
        slot->id = index;
        struct lg_stack *s = &rec->seg.stacks[index];
        lg_store_relaxed(&s->hash, hash);
        lg_store_relaxed(&s->first_ns, now_ns);
        lg_store_relaxed(&s->last_ns, now_ns);
        lg_store_relaxed(&s->frame_depth, LG_PAIR(next, depth));
        /* Pairs with the reader's acquire load of stacks_used. */
        lg_store_release(&s->endpoint_flags, LG_PAIR(endpoint, flags));
        lg_store_release(&rec->seg.tables->stacks_used, rec->stacks_used);
    }
    else {
        table_full(rec, LG_SEC_STACKS, &rec->seg.self->stack_overflow);
    }
    pthread_mutex_unlock(&rec->names);
    return index;
}

void
lg_record_stack_blame(struct lg_recorder *rec, uint32_t stack, uint64_t duration_ns,
                      uint64_t now_ns)
{
    struct lg_stack *s = &rec->seg.stacks[stack < rec->seg.stack_count ? stack : 0];
    lg_store_relaxed(&s->last_ns, now_ns);
    lg_add_single(&s->total_ns, duration_ns);
    lg_max_single(&s->max_ns, duration_ns);
    lg_store_release(&s->count, lg_load_relaxed(&s->count) + 1);
}

void
lg_record_feature(struct lg_recorder *rec, uint32_t index, const char *name, bool on,
                  const char *reason)
{
    if (rec->seg.base == NULL || index >= rec->seg.feature_count) {
        return;
    }
    struct lg_feature *f = &rec->seg.features[index];
    lg_text_set(f->name, sizeof(f->name), name);
    lg_text_set(f->reason, sizeof(f->reason), reason);
    /* Pairs with the acquire fence after the reader's copy. */
    lg_store32_release(&f->state, on ? LG_FEATURE_ON : LG_FEATURE_OFF);
}

/* ---- counters ---------------------------------------------------------- */

void
lg_record_step(struct lg_recorder *rec, uint32_t endpoint, uint64_t start_ns, uint64_t end_ns,
               uint64_t cpu_ns)
{
    struct lg_endpoint *e = &rec->seg.endpoints[endpoint];
    uint64_t ns = end_ns - start_ns;
    lg_add_single(&e->steps, 1);
    lg_add_single(&e->on_loop_sum_ns, ns);
    lg_max_single(&e->step_max_ns, ns);
    lg_add_single(&e->cpu_ns, cpu_ns);
    lg_store_relaxed(&e->last_seen_ns, end_ns);
    if (!lg_hist_add(&rec->seg.hists[LG_HIST_ON_LOOP(endpoint)], ns)) {
        lg_add_single(&rec->seg.self->hist_saturated, 1);
    }
    cells_step(rec, endpoint, start_ns, end_ns);
}

/* Busy time lies in each second that the step covers; the step itself, and how
 * long it was, in the one in which it ended. */
static void
cells_step(struct lg_recorder *rec, uint32_t endpoint, uint64_t start_ns, uint64_t end_ns)
{
    uint64_t second = end_ns / LG_NS_PER_S;
    uint64_t from = start_ns;
    if (start_ns < second * LG_NS_PER_S) {
        uint64_t first = start_ns / LG_NS_PER_S;
        first = second - first > LG_CELLS_1S ? second - LG_CELLS_1S : first;
        for (uint64_t s = first; s < second; s++) {
            from = s * LG_NS_PER_S > start_ns ? s * LG_NS_PER_S : start_ns;
            uint32_t add[6] = {0, 0, (uint32_t)us_between(from, (s + 1) * LG_NS_PER_S), 0, 0, 0};
            cells_add(rec, endpoint, s, add);
        }
        from = second * LG_NS_PER_S;
    }
    uint64_t busy_us = us_between(from, end_ns);
    uint32_t whole_us = add_sat(0, (end_ns - start_ns) / LG_NS_PER_US);
    uint32_t number[2] = {(uint32_t)second, (uint32_t)second / 10};
    uint32_t index[2] = {number[0] % LG_CELLS_1S, LG_CELLS_1S + number[1] % LG_CELLS_10S};
    for (int i = 0; i < 2; i++) {
        struct lg_cell *c = cell_at(rec, endpoint, index[i], number[i]);
        uint64_t b = lg_load_relaxed(&c->steps_busy_us);
        lg_store_relaxed(&c->steps_busy_us, LG_PAIR(LG_LO(b) + 1, add_sat(LG_HI(b), busy_us)));
        uint64_t m = lg_load_relaxed(&c->max_step_us_waited);
        if (whole_us > LG_LO(m)) {
            lg_store_relaxed(&c->max_step_us_waited, LG_PAIR(whole_us, LG_HI(m)));
        }
    }
}

void
lg_record_block(struct lg_recorder *rec, uint32_t endpoint, uint64_t end_ns, uint64_t duration_ns,
                const uint64_t parts_ns[LG_CAUSE_COUNT])
{
    struct lg_endpoint *e = &rec->seg.endpoints[endpoint];
    lg_add_single(&e->blocked_ns, duration_ns);
    for (int i = 0; i < LG_CAUSE_COUNT; i++) {
        lg_add_single(&e->blocked_by_cause_ns[i], parts_ns[i]);
    }
    lg_add_single(&e->blocks, 1);
    uint32_t add[6] = {0, 0, 0, add_sat(0, duration_ns / LG_NS_PER_US), 1, 0};
    cells_add(rec, endpoint, end_ns / LG_NS_PER_S, add);
}

void
lg_record_waited(struct lg_recorder *rec, uint32_t endpoint, uint64_t now_ns, uint32_t requests,
                 uint64_t sum_ns)
{
    struct lg_endpoint *e = &rec->seg.endpoints[endpoint];
    lg_add_single(&e->waited_ns, sum_ns);
    uint64_t w = lg_load_relaxed(&e->cumulative_waited);
    lg_store_relaxed(&e->cumulative_waited, LG_PAIR(LG_LO(w), LG_HI(w) + requests));
    uint32_t add[6] = {0, 0, 0, 0, 0, requests};
    cells_add(rec, endpoint, now_ns / LG_NS_PER_S, add);
}

void
lg_record_request(struct lg_recorder *rec, uint32_t endpoint, const struct lg_request_facts *facts)
{
    struct lg_endpoint *e = &rec->seg.endpoints[endpoint];
    uint64_t ns = facts->end_ns - facts->start_ns;
    if (facts->timed) {
        lg_add_single(&e->response_sum_ns, ns);
        lg_max_single(&e->response_max_ns, ns);
        if (!lg_hist_add(&rec->seg.hists[LG_HIST_RESPONSE(endpoint)], ns)) {
            lg_add_single(&rec->seg.self->hist_saturated, 1);
        }
    }
    switch (facts->status / 100) {
    case 2:
        lg_add_single(&e->status_2xx, 1);
        break;
    case 3:
        lg_add_single(&e->status_3xx, 1);
        break;
    case 4:
        lg_add_single(&e->status_4xx, 1);
        break;
    case 5:
        lg_add_single(&e->status_5xx, 1);
        break;
    default:
        break;
    }
    if (facts->flags & LG_REQ_EXCEPTION) {
        lg_add_single(&e->exceptions, 1);
    }
    if (facts->flags & LG_REQ_CANCELLED) {
        lg_add_single(&e->cancelled, 1);
    }
    lg_store_relaxed(&e->last_seen_ns, facts->end_ns);
    /* Last, so that who sees the count sees the sums. Pairs with the reader's
     * acquire load of requests. */
    lg_store_release(&e->requests, lg_load_relaxed(&e->requests) + 1);
    uint32_t second = (uint32_t)(facts->end_ns / LG_NS_PER_S);
    struct lg_cell *c = cell_at(rec, endpoint, second % LG_CELLS_1S, second);
    lg_add_single(&c->second_requests, UINT64_C(1) << 32);
    c = cell_at(rec, endpoint, LG_CELLS_1S + second / 10 % LG_CELLS_10S, second / 10);
    lg_add_single(&c->second_requests, UINT64_C(1) << 32);
    lg_record_push(rec, LG_RING_REQUESTS, facts->end_ns, LG_REC_REQUEST, facts->flags, endpoint, ns,
                   facts->on_loop_ns, facts->longest_step_ns,
                   LG_PAIR(facts->request_id, (uint32_t)facts->status |
                                                  (uint32_t)facts->method << 16 |
                                                  (uint32_t)facts->flags << 24),
                   facts->pool_wait_ns);
    lg_add_single(&rec->seg.self->requests, 1);
}

void
lg_record_in_flight(struct lg_recorder *rec, uint32_t endpoint, int change)
{
    uint64_t *word = &rec->seg.endpoints[endpoint].in_flight_threshold_us;
    uint64_t v = lg_load_relaxed(word);
    lg_store_relaxed(word, LG_PAIR(LG_LO(v) + (uint32_t)change, LG_HI(v)));
}

/* ---- history ----------------------------------------------------------- */

/* add: requests, steps, busy us, blocked us, blocks, waited. Seldom called. */
static void
cells_add(struct lg_recorder *rec, uint32_t endpoint, uint64_t second, const uint32_t add[6])
{
    uint32_t number[2] = {(uint32_t)second, (uint32_t)(second / 10)};
    uint32_t index[2] = {number[0] % LG_CELLS_1S, LG_CELLS_1S + number[1] % LG_CELLS_10S};
    for (int i = 0; i < 2; i++) {
        struct lg_cell *c = cell_at(rec, endpoint, index[i], number[i]);
        pair_add(&c->second_requests, 0, add[0]);
        pair_add(&c->steps_busy_us, add[1], add[2]);
        pair_add(&c->blocked_us_blocks, add[3], add[4]);
        pair_add(&c->max_step_us_waited, 0, add[5]);
    }
}

static void
pair_add(uint64_t *word, uint64_t lo, uint64_t hi)
{
    uint64_t v = lg_load_relaxed(word);
    lg_store_relaxed(word, LG_PAIR(add_sat(LG_LO(v), lo), add_sat(LG_HI(v), hi)));
}

/* The cell of that second, emptied first when it still bears an older one. */
static struct lg_cell *
cell_at(struct lg_recorder *rec, uint32_t endpoint, uint32_t index, uint32_t number)
{
    struct lg_cell *c = &rec->seg.endpoint_history[(size_t)endpoint * LG_CELLS + index];
    if (LG_LO(lg_load_relaxed(&c->second_requests)) != number) {
        lg_store_relaxed(&c->second_requests, 0);
        /* Who sees a zeroed word sees that the cell was taken away first; who
         * sees the new number sees the zeros. Pairs with the reader's two
         * loads of the first word. */
        lg_fence_release();
        lg_store_relaxed(&c->steps_busy_us, 0);
        lg_store_relaxed(&c->blocked_us_blocks, 0);
        lg_store_relaxed(&c->max_step_us_waited, 0);
        lg_store_release(&c->second_requests, LG_PAIR(number, 0));
    }
    return c;
}

static uint32_t
add_sat(uint32_t a, uint64_t b)
{
    uint64_t sum = a + b;
    return sum > UINT32_MAX ? UINT32_MAX : (uint32_t)sum;
}

/* Microseconds by truncating both ends, not the difference: many short steps
 * then add up right, where each alone would lose up to 1 us. */
static uint64_t
us_between(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns / LG_NS_PER_US - from_ns / LG_NS_PER_US;
}

void
lg_record_loop_busy(struct lg_recorder *rec, uint32_t loop, uint64_t start_ns, uint64_t end_ns)
{
    uint64_t second = end_ns / LG_NS_PER_S;
    uint64_t from = second * LG_NS_PER_S;
    if (start_ns < from) {
        busy_before(rec, loop, start_ns, second);
    }
    else {
        from = start_ns;
    }
    struct lg_loop_cell *c = loop_cell_at(rec, loop, (uint32_t)second);
    uint64_t b = lg_load_relaxed(&c->busy_us_max_lag_us);
    uint32_t lag_us = add_sat(0, (end_ns - start_ns) / LG_NS_PER_US);
    pair_add(&c->second_iterations, 0, 1);
    lg_store_relaxed(&c->busy_us_max_lag_us, LG_PAIR(add_sat(LG_LO(b), us_between(from, end_ns)),
                                                     lag_us > LG_HI(b) ? lag_us : LG_HI(b)));
}

/* The seconds that it covers before its last one. */
static void
busy_before(struct lg_recorder *rec, uint32_t loop, uint64_t start_ns, uint64_t last)
{
    uint64_t first = start_ns / LG_NS_PER_S;
    if (last - first > LG_LOOP_CELLS) {
        first = last - LG_LOOP_CELLS;
    }
    for (uint64_t s = first; s < last; s++) {
        uint64_t from = s * LG_NS_PER_S > start_ns ? s * LG_NS_PER_S : start_ns;
        struct lg_loop_cell *c = loop_cell_at(rec, loop, (uint32_t)s);
        pair_add(&c->busy_us_max_lag_us, us_between(from, (s + 1) * LG_NS_PER_S), 0);
    }
}

void
lg_record_loop_second(struct lg_recorder *rec, uint32_t loop, uint64_t end_ns,
                      const struct lg_loop_second *add, uint32_t open_requests)
{
    struct lg_loop_cell *c = loop_cell_at(rec, loop, (uint32_t)(end_ns / LG_NS_PER_S));
    uint64_t v = lg_load_relaxed(&c->requests_open);
    lg_store_relaxed(&c->requests_open, LG_PAIR(add_sat(LG_LO(v), add->requests), open_requests));
    if (add->blocks != 0) {
        pair_add(&c->blocked_us_blocks, add->blocked_ns / LG_NS_PER_US, add->blocks);
    }
    if (add->requests != 0) {
        return;                         /* a request's end brings nothing else */
    }
    pair_add(&c->cpu_us_gil_us, add->cpu_ns / LG_NS_PER_US, add->gil_ns / LG_NS_PER_US);
    pair_add(&c->io_us_gc_us, add->io_ns / LG_NS_PER_US, add->gc_ns / LG_NS_PER_US);
}

static struct lg_loop_cell *
loop_cell_at(struct lg_recorder *rec, uint32_t loop, uint32_t second)
{
    struct lg_loop_cell *c =
        &rec->seg.loop_history[(size_t)loop * LG_LOOP_CELLS + second % LG_LOOP_CELLS];
    if (LG_LO(lg_load_relaxed(&c->second_iterations)) != second) {
        lg_store_relaxed(&c->second_iterations, 0);
        lg_fence_release();             /* as in cell_at() */
        lg_store_relaxed(&c->busy_us_max_lag_us, 0);
        lg_store_relaxed(&c->blocked_us_blocks, 0);
        lg_store_relaxed(&c->requests_open, 0);
        lg_store_relaxed(&c->cpu_us_gil_us, 0);
        lg_store_relaxed(&c->io_us_gc_us, 0);
        lg_store_release(&c->second_iterations, LG_PAIR(second, 0));
    }
    return c;
}
