/*
 * families.c - from one segment to sums; see families.h.
 */
#include "families.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../common/lg_clock.h"
#include "../common/lg_hist.h"
#include "../viewer/format.h"
#include "../viewer/image.h"

#define MAX_SLOT 63                     /* as the agent gives them out */

const struct lg_family_info lg_family_info[LG_FAMILY_COUNT] = {
#define LG_X(name, text, type, unit, labels, help) \
    {"loopguard_" text, LG_##type, LG_UNIT_##unit, labels, help},
    LG_FAMILIES(LG_X)
#undef LG_X
};

const uint32_t lg_families_kinds =
    LG_IMAGE_KIND(SELF) | LG_IMAGE_KIND(FEATURES) | LG_IMAGE_KIND(TABLES) | LG_IMAGE_KIND(STRINGS) |
    LG_IMAGE_KIND(ENDPOINTS) | LG_IMAGE_KIND(HISTS) | LG_IMAGE_KIND(LOOPS) | LG_IMAGE_KIND(POOL);

/* One segment on its way into the sums. */
struct account {
    struct lg_families *families;
    const struct lg_geometry *geo;
    const uint8_t *bytes;
    uint64_t now_ns;                    /* 0 = dead */
    struct lg_tables tables;
    uint64_t threshold_ns;              /* highest of its open loops, or as configured */
    char app[256];
    char worker[8];
    bool failed;                        /* no memory */
};

static void take_tables(struct account *a);
static void add_endpoints(struct account *a);
static void add_endpoint(struct account *a, uint32_t index, const struct lg_endpoint *e);
static void add_requests(struct account *a, const struct lg_endpoint *e, const char *method,
                         const char *route);
static void add_blocks(struct account *a, uint32_t index, const struct lg_endpoint *e,
                       const char *method, const char *route);
static void add_original_lag(struct account *a, uint32_t index, const struct lg_endpoint *e);
static void add_loops(struct account *a);
static void add_loop(struct account *a, uint32_t index, const struct lg_loop_entry *e);
static uint64_t blocked_for(const struct account *a, const struct lg_loop_entry *e,
                            uint64_t now_ns);
static void add_pool(struct account *a);
static void add_self(struct account *a);
static void add_info(struct account *a);
static void add_end(struct account *a);
static bool get(const struct account *a, uint32_t kind, uint64_t index, void *out, size_t size);
static void count(struct account *a, enum lg_family family, uint64_t n, int values, ...);
static void histogram(struct account *a, enum lg_family family, uint32_t hist, uint64_t sum_ns,
                      int values, ...);
static uint64_t *words_of(struct account *a, enum lg_family family, int values, va_list args);
static uint32_t coarse(uint32_t bucket);

void
lg_families_init(struct lg_families *families)
{
    memset(families, 0, sizeof(*families));
    for (int i = 0; i < LG_FAMILY_COUNT; i++) {
        families->table[i].words = lg_family_info[i].type == LG_HISTOGRAM ? LG_HISTOGRAM_WORDS : 1;
    }
}

void
lg_families_clear(struct lg_families *families)
{
    for (int i = 0; i < LG_FAMILY_COUNT; i++) {
        lg_sums_clear(&families->table[i]);
    }
}

void
lg_families_free(struct lg_families *families)
{
    for (int i = 0; i < LG_FAMILY_COUNT; i++) {
        lg_sums_free(&families->table[i]);
    }
}

int
lg_families_add(struct lg_families *into, const struct lg_families *from)
{
    int err = 0;
    for (int i = 0; i < LG_FAMILY_COUNT && err == 0; i++) {
        err = lg_sums_add(&into->table[i], &from->table[i]);
    }
    return err;
}

int
lg_families_account(struct lg_families *families, const struct lg_geometry *geo,
                    const uint8_t *bytes, uint64_t now_ns)
{
    struct account a = {.families = families, .geo = geo, .bytes = bytes, .now_ns = now_ns};
    uint32_t slot = geo->proc.worker_slot < MAX_SLOT ? geo->proc.worker_slot : MAX_SLOT;
    lg_text_clean(geo->proc.app, sizeof(geo->proc.app), a.app, sizeof(a.app));
    snprintf(a.worker, sizeof(a.worker), "%u", slot);
    take_tables(&a);
    add_loops(&a);                      /* first: the threshold in force */
    add_endpoints(&a);
    add_pool(&a);
    add_self(&a);
    count(&a, LG_FAMILY_UP, now_ns != 0, 2, a.app, a.worker);
    add_info(&a);
    add_end(&a);
    return a.failed ? -ENOMEM : 0;
}

void
lg_families_bound(uint32_t i, char *out, size_t size)
{
    uint64_t us = (uint64_t)LG_FIRST_BOUND_US << i;
    snprintf(out, size, "%" PRIu64 ".%06" PRIu64, us / 1000000, us % 1000000);
}

/* ---- one segment ------------------------------------------------------- */

static void
take_tables(struct account *a)
{
    const struct lg_extent *x = a->geo->section;
    if (!get(a, LG_SEC_TABLES, 0, &a->tables, sizeof(a->tables))) {
        memset(&a->tables, 0, sizeof(a->tables));
    }
    if (a->tables.endpoints_used > x[LG_SEC_ENDPOINTS].count) {
        a->tables.endpoints_used = x[LG_SEC_ENDPOINTS].count;
    }
    if (a->tables.strings_used > x[LG_SEC_STRINGS].count) {
        a->tables.strings_used = x[LG_SEC_STRINGS].count;
    }
    if (a->tables.loops_used > x[LG_SEC_LOOPS].count) {
        a->tables.loops_used = x[LG_SEC_LOOPS].count;
    }
}

static void
add_endpoints(struct account *a)
{
    for (uint32_t i = 0; i < a->tables.endpoints_used; i++) {
        struct lg_endpoint e;
        if (get(a, LG_SEC_ENDPOINTS, i, &e, sizeof(e)) &&
            (e.requests != 0 || e.steps != 0 || e.blocks != 0 ||
             LG_LO(e.in_flight_threshold_us) != 0)) {
            add_endpoint(a, i, &e);
        }
    }
}

/* What is no request has no method; its kind stands before its name, as on
 * the screen: "(task) poll". */
static void
add_endpoint(struct account *a, uint32_t index, const struct lg_endpoint *e)
{
    char name[LG_MAX_STRING + 1];
    char route[LG_MAX_STRING + 32];
    uint32_t kind = LG_KEY_KIND(e->key);
    uint32_t method = LG_KEY_METHOD(e->key);
    bool of_requests = kind == LG_KIND_REQUEST || kind == LG_KIND_WEBSOCKET;
    if (e->key == 0 ||
        !lg_string_get(a->bytes + a->geo->section[LG_SEC_STRINGS].offset, a->tables.strings_used,
                       LG_KEY_NAME(e->key), name, sizeof(name))) {
        return;
    }
    const char *label = of_requests ? "" : lg_format_label(kind, method, name);
    snprintf(route, sizeof(route), "%s%s%s", label, label[0] != '\0' ? " " : "", name);
    const char *shown = kind == LG_KIND_WEBSOCKET ? "WS"
                        : of_requests             ? lg_format_method(method)
                                                  : "";
    if (of_requests) {
        add_requests(a, e, shown, route);
        histogram(a, LG_FAMILY_DURATION, LG_HIST_RESPONSE(index), e->response_sum_ns, 3, a->app,
                  shown, route);
    }
    histogram(a, LG_FAMILY_ON_LOOP, LG_HIST_ON_LOOP(index), e->on_loop_sum_ns, 3, a->app, shown,
              route);
    if (of_requests || e->blocks != 0 || LG_LO(e->cumulative_waited) != 0) {
        add_blocks(a, index, e, shown, route);
    }
}

/* Classes that never were are left out, but for the first. */
static void
add_requests(struct account *a, const struct lg_endpoint *e, const char *method, const char *route)
{
    static const char *const classes[] = {"2xx", "3xx", "4xx", "5xx"};
    const uint64_t by_class[] = {e->status_2xx, e->status_3xx, e->status_4xx, e->status_5xx};
    uint64_t known = 0;
    for (size_t i = 0; i < 4; i++) {
        known += by_class[i];
        if (i == 0 || by_class[i] != 0) {
            count(a, LG_FAMILY_REQUESTS, by_class[i], 5, a->app, a->worker, method, route,
                  classes[i]);
        }
    }
    if (e->requests > known) {          /* no response left */
        count(a, LG_FAMILY_REQUESTS, e->requests - known, 5, a->app, a->worker, method, route,
              "none");
    }
    count(a, LG_FAMILY_ORIGINAL_REQUESTS, e->requests, 2, route, method);
}

static void
add_blocks(struct account *a, uint32_t index, const struct lg_endpoint *e, const char *method,
           const char *route)
{
    for (uint32_t i = 0; i < LG_CAUSE_COUNT; i++) {
        if (e->blocked_by_cause_ns[i] != 0) {
            count(a, LG_FAMILY_BLOCKED, e->blocked_by_cause_ns[i], 5, a->app, a->worker, method,
                  route, lg_format_cause(i));
        }
    }
    uint64_t cumulative = LG_LO(e->cumulative_waited);
    count(a, LG_FAMILY_BLOCKS, e->blocks, 4, a->app, a->worker, method, route);
    count(a, LG_FAMILY_CUMULATIVE, cumulative, 4, a->app, a->worker, method, route);
    count(a, LG_FAMILY_ORIGINAL_BLOCKING, e->blocks, 1, "single");
    count(a, LG_FAMILY_ORIGINAL_BLOCKING, cumulative, 1, "cumulative");
    add_original_lag(a, index, e);
}

/* Durations of blocks: what the histogram of steps has above the threshold.
 * Those in the bucket of the threshold itself are told by the number of blocks. */
static void
add_original_lag(struct account *a, uint32_t index, const struct lg_endpoint *e)
{
    struct lg_hist steps;
    uint64_t own_us = LG_HI(e->in_flight_threshold_us);
    uint64_t threshold_us = own_us != 0 ? own_us : a->threshold_ns / LG_NS_PER_US;
    uint32_t first = lg_hist_index(threshold_us);
    uint64_t above = 0;
    static const char key[] = "single";
    if (e->blocks == 0 || !get(a, LG_SEC_HISTS, LG_HIST_ON_LOOP(index), &steps, sizeof(steps))) {
        return;
    }
    uint64_t *words = lg_sums_at(&a->families->table[LG_FAMILY_ORIGINAL_LAG], key, sizeof(key));
    if (words == NULL) {
        a->failed = true;
        return;
    }
    for (uint32_t i = first + 1; i < LG_HIST_BUCKETS; i++) {
        words[coarse(i)] += steps.bucket[i];
        above += steps.bucket[i];
    }
    words[coarse(first)] += e->blocks > above ? e->blocks - above : 0;
    words[LG_BOUNDS + 1] += e->blocked_ns;
}

static void
add_loops(struct account *a)
{
    a->threshold_ns = a->tables.loops_used == 0 ? a->geo->config.threshold_ns : 0;
    for (uint32_t i = 0; i < a->tables.loops_used; i++) {
        struct lg_loop_entry e;
        if (get(a, LG_SEC_LOOPS, i, &e, sizeof(e)) && LG_LOOP_STATE(e.state) != LG_LOOP_FREE) {
            add_loop(a, i, &e);
        }
    }
    if (a->threshold_ns == 0) {
        a->threshold_ns = a->geo->config.threshold_ns;
    }
    if (a->now_ns != 0) {
        uint64_t *words = lg_sums_at(&a->families->table[LG_FAMILY_ORIGINAL_THRESHOLD], "", 1);
        if (words == NULL) {
            a->failed = true;
        }
        else if (words[0] < a->threshold_ns) {
            words[0] = a->threshold_ns;
        }
    }
}

static void
add_loop(struct account *a, uint32_t index, const struct lg_loop_entry *e)
{
    char loop[8];
    bool open = e->closed_ns == 0 && LG_LOOP_STATE(e->state) != LG_LOOP_CLOSED;
    snprintf(loop, sizeof(loop), "%u", index);
    histogram(a, LG_FAMILY_LAG, LG_HIST_LAG(a->geo->section[LG_SEC_ENDPOINTS].count, index),
              e->sum_lag_ns, 3, a->app, a->worker, loop);
    count(a, LG_FAMILY_BUSY, e->sum_lag_ns, 3, a->app, a->worker, loop);
    count(a, LG_FAMILY_ITERATIONS, e->iterations, 3, a->app, a->worker, loop);
    count(a, LG_FAMILY_GC, e->parts_ns[LG_CAUSE_GC], 3, a->app, a->worker, loop);
    count(a, LG_FAMILY_GIL, e->parts_ns[LG_CAUSE_GIL], 3, a->app, a->worker, loop);
    if (!open) {
        return;
    }
    if (e->threshold_ns > a->threshold_ns && e->threshold_ns != LG_NONE) {
        a->threshold_ns = e->threshold_ns;
    }
    if (a->now_ns != 0) {
        count(a, LG_FAMILY_BLOCKED_NOW, blocked_for(a, e, a->now_ns), 3, a->app, a->worker, loop);
    }
    if (a->now_ns != 0 && e->tasks != LG_NONE) {
        count(a, LG_FAMILY_TASKS, e->tasks, 3, a->app, a->worker, loop);
    }
}

/* Age of the step or iteration when it is over its threshold, else 0. One look
 * only: a gauge is no verdict. */
static uint64_t
blocked_for(const struct account *a, const struct lg_loop_entry *e, uint64_t now_ns)
{
    uint64_t threshold = e->threshold_ns != 0 ? e->threshold_ns : a->geo->config.threshold_ns;
    if (e->seq % 2 != 0) {
        return 0;                       /* changing: it runs */
    }
    if (LG_LOOP_STATE(e->state) == LG_LOOP_STEP && now_ns > e->step_start_ns &&
        now_ns - e->step_start_ns > threshold) {
        return now_ns - e->step_start_ns;
    }
    if (e->awake_since_ns != 0 && now_ns > e->awake_since_ns &&
        now_ns - e->awake_since_ns > threshold) {
        return now_ns - e->awake_since_ns;
    }
    return 0;
}

static void
add_pool(struct account *a)
{
    struct lg_pool pool;
    const struct lg_extent *x = a->geo->section;
    if (!get(a, LG_SEC_POOL, 0, &pool, sizeof(pool)) || pool.limit == 0) {
        return;
    }
    histogram(a, LG_FAMILY_POOL_WAIT,
              LG_HIST_POOL_WAIT(x[LG_SEC_ENDPOINTS].count, x[LG_SEC_LOOPS].count), pool.wait_sum_ns,
              2, a->app, a->worker);
    count(a, LG_FAMILY_FULL, pool.times_full, 2, a->app, a->worker);
    if (a->now_ns == 0) {
        return;
    }
    count(a, LG_FAMILY_THREADS, pool.busy, 3, a->app, a->worker, "busy");
    count(a, LG_FAMILY_THREADS, pool.high_water > pool.busy ? pool.high_water - pool.busy : 0, 3,
          a->app, a->worker, "idle");
    count(a, LG_FAMILY_LIMIT, pool.limit, 2, a->app, a->worker);
    count(a, LG_FAMILY_WAITING, pool.waiting, 2, a->app, a->worker);
}

static void
add_self(struct account *a)
{
    struct lg_self self;
    if (!get(a, LG_SEC_SELF, 0, &self, sizeof(self))) {
        return;
    }
    const struct {
        const char *reason;
        uint64_t n;
    } rows[] = {
        {"endpoint_table_full", self.endpoint_overflow},
        {"string_table_full", self.string_overflow},
        {"stack_table_full", self.stack_overflow},
        {"frame_table_full", self.frame_overflow},
        {"loop_table_full", self.loop_overflow},
        {"no_ring", self.ring_unavailable},
        {"name_table_busy", self.intern_busy},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        count(a, LG_FAMILY_LOST, rows[i].n, 3, a->app, a->worker, rows[i].reason);
    }
}

/* One entry for each kind of agent, not for each worker. */
static void
add_info(struct account *a)
{
    char version[64];
    char python[16];
    char features[320] = "";
    char key[LG_SUMS_MAX_KEY];
    size_t used = 0;
    for (uint32_t i = 0; i < a->geo->section[LG_SEC_FEATURES].count && i < 16; i++) {
        struct lg_feature f;
        char name[24];
        if (get(a, LG_SEC_FEATURES, i, &f, sizeof(f)) && f.state == LG_FEATURE_ON) {
            lg_text_clean(f.name, sizeof(f.name), name, sizeof(name));
            used += (size_t)snprintf(features + used, sizeof(features) - used, "%s%s",
                                     used > 0 ? "," : "", name);
        }
    }
    if (a->now_ns == 0) {
        return;
    }
    lg_text_clean(a->geo->proc.agent_version, sizeof(a->geo->proc.agent_version), version,
                  sizeof(version));
    lg_format_python(a->geo->proc.python_version_hex, python, sizeof(python));
    int length = snprintf(key, sizeof(key), "%s%c%s%c%s%c", version, 0, python, 0, features, 0);
    uint64_t *words = lg_sums_at(&a->families->table[LG_FAMILY_INFO], key, (size_t)length);
    if (words == NULL) {
        a->failed = true;
        return;
    }
    words[0] = 1;
}

static void
add_end(struct account *a)
{
    static const char *const states[] = {"clean", "killed", "blocked"};
    size_t ended = SIZE_MAX;
    uint32_t state = a->geo->header.state;
    if (a->now_ns == 0) {
        ended = state == LG_STATE_EXITING || state == LG_STATE_EXITED ? 0 : 1;
    }
    for (uint32_t i = 0; i < a->tables.loops_used && ended == 1; i++) {
        struct lg_loop_entry e;
        if (get(a, LG_SEC_LOOPS, i, &e, sizeof(e)) && e.closed_ns == 0 &&
            blocked_for(a, &e, e.heartbeat_ns) != 0) {
            ended = 2;
        }
    }
    for (size_t i = 0; i < 3; i++) {
        count(a, LG_FAMILY_DEATHS, i == ended, 2, a->app, states[i]);
    }
}

/* A private copy of an element; false when the segment does not have it. */
static bool
get(const struct account *a, uint32_t kind, uint64_t index, void *out, size_t size)
{
    const struct lg_extent *x = &a->geo->section[kind];
    if (!lg_extent_has(x, index) || x->known < size) {
        return false;
    }
    memcpy(out, a->bytes + x->offset + index * x->stride, size);
    return true;
}

/* Adds to the sum of so many label values. */
static void
count(struct account *a, enum lg_family family, uint64_t n, int values, ...)
{
    va_list args;
    va_start(args, values);
    uint64_t *words = words_of(a, family, values, args);
    va_end(args);
    if (words != NULL) {
        words[0] += n;
    }
}

static void
histogram(struct account *a, enum lg_family family, uint32_t hist, uint64_t sum_ns, int values, ...)
{
    const struct lg_extent *x = &a->geo->section[LG_SEC_HISTS];
    va_list args;
    if (!lg_extent_has(x, hist) || x->known < sizeof(struct lg_hist)) {
        return;
    }
    va_start(args, values);
    uint64_t *words = words_of(a, family, values, args);
    va_end(args);
    const uint8_t *from = a->bytes + x->offset + (uint64_t)hist * x->stride;
    for (uint32_t i = 0; i < LG_HIST_BUCKETS && words != NULL; i++) {
        uint64_t n;
        memcpy(&n, from + i * sizeof(n), sizeof(n));
        words[coarse(i)] += n;
    }
    if (words != NULL) {
        words[LG_BOUNDS + 1] += sum_ns;
    }
}

static uint64_t *
words_of(struct account *a, enum lg_family family, int values, va_list args)
{
    char key[LG_SUMS_MAX_KEY];
    size_t used = 0;
    for (int i = 0; i < values; i++) {
        const char *value = va_arg(args, const char *);
        size_t length = strlen(value) + 1;
        if (used + length > sizeof(key)) {
            return NULL;                /* cannot be: names are cut at LG_MAX_STRING */
        }
        memcpy(key + used, value, length);
        used += length;
    }
    uint64_t *words = lg_sums_at(&a->families->table[family], key, used);
    a->failed = a->failed || words == NULL;
    return words;
}

/* Bucket of ours for a bucket of the segment: each octave is 16 of those. */
static uint32_t
coarse(uint32_t bucket)
{
    _Static_assert(LG_FIRST_BOUND_US == 256, "the first bound is bucket 80's lower edge");
    uint32_t octave = bucket < 80 ? 0 : bucket / 16 - 4;
    return octave < LG_BOUNDS ? octave : LG_BOUNDS;
}
