/*
 * rows.c - endpoints: numbers in a window, merge, sort, detail; see model.h.
 *
 * Counts of a window come from the cells of the segment's own history, so a
 * viewer that attaches now has them at once. Quantiles need histograms of the
 * window: from what this viewer saw being added, else from the records of the
 * ring when they reach back far enough, else they are not known.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model_private.h"

#define NO_ROW UINT32_MAX

/* A set of rows in the making: which row an endpoint of a worker went to. */
struct builder {
    struct lg_top *top;
    const struct lg_view *view;
    size_t count;
    size_t workers;                     /* columns of by_worker */
    uint32_t *bucket;                   /* hash table of row + 1 */
    size_t buckets;
    /* Of the worker at hand. */
    struct lg_worker *w;
    size_t index;
    uint32_t *row_of;                   /* by endpoint */
};

static bool build(struct builder *b, size_t worker);
static bool add_worker(struct builder *b);
static uint32_t row_for(struct builder *b, const struct lg_key *key);
static bool make_room(struct builder *b);
static uint64_t hash_key(const struct lg_key *key);
static bool is_empty(const struct lg_endpoint *e, uint32_t index);
static bool figures(const struct lg_worker *w, uint32_t e, enum lg_window window,
                    struct lg_figures *out);
static void total_figures(const struct lg_worker *w, uint32_t e, struct lg_figures *out);
static void cell_figures(const struct lg_worker *w, uint32_t e, enum lg_window window,
                         struct lg_figures *out);
static void add_block(struct builder *b, uint32_t row, struct lg_figures *f,
                      const struct lg_key *key);
static void merge_row(struct builder *b, uint32_t row, uint32_t e, const struct lg_figures *f);
static enum lg_quantile_source fill_hists(struct builder *b);
static void take_delta(void *arg, uint32_t hist, uint32_t bucket, uint64_t count);
static void take_totals(struct builder *b);
static bool take_records(struct builder *b, uint64_t since_ns);
static void note_stalls(struct builder *b);
static void finish_rows(struct builder *b, enum lg_quantile_source source);
static size_t keep_matching(struct builder *b);
static int compare_rows(const void *a, const void *b);
static void set_bands(struct lg_detail *out, enum lg_band_set set);
static void set_timeline(struct lg_top *top, size_t worker, const struct lg_key *key,
                         struct lg_detail *out);
static void set_counters(struct lg_top *top, size_t worker, const struct lg_key *key,
                         struct lg_detail *out);
static void set_stalls(struct lg_top *top, size_t worker, const struct lg_view *view,
                       const struct lg_key *key, struct lg_detail *out);
static void weigh(struct lg_top *top, size_t *count, const struct lg_stack_view *stack, uint64_t ns,
                  uint64_t times, uint64_t max_ns, uint64_t age_ns);
static void add_waiting(struct lg_waiting *into, const struct lg_waiting *from);
static void sort_stacks(struct lg_weighted_stack *stacks, size_t count, enum lg_stack_order order);
static void set_hint(struct lg_detail *out);
static uint32_t endpoint_of(struct lg_worker *w, const struct lg_key *key);
static int most_waiting(const void *a, const void *b);

/* ---- keys -------------------------------------------------------------- */

const struct lg_endpoint *
lg_worker_endpoint(const struct lg_worker *w, uint32_t endpoint)
{
    return endpoint < w->snap->endpoint_count && !w->snap->endpoint_bad[endpoint]
               ? &w->snap->endpoints[endpoint]
               : NULL;
}

/* An index that is not there prints as "?17", never as memory. UINT32_MAX: no
 * endpoint at all, the loop itself, by the name that the agent gives it. */
struct lg_key
lg_worker_key(struct lg_worker *w, uint32_t endpoint)
{
    static char bad[1024][8];
    const struct lg_endpoint *e = lg_worker_endpoint(w, endpoint);
    if (endpoint == UINT32_MAX) {
        return (struct lg_key){LG_KIND_LOOP, LG_METHOD_NONE, "(loop)"};
    }
    if (e == NULL) {
        char *text = bad[endpoint % 1024];
        snprintf(text, sizeof(bad[0]), "?%u", endpoint % 100000);
        return (struct lg_key){LG_KIND_REQUEST, LG_METHOD_NONE, text};
    }
    return (struct lg_key){LG_KEY_KIND(e->key), LG_KEY_METHOD(e->key),
                           lg_snapshot_text(w->snap, LG_KEY_NAME(e->key))};
}

/* Open requests by endpoint, the blocker left out: who waits while it lasts. */
void
lg_worker_waiting_now(struct lg_worker *w, uint32_t blocker, struct lg_waiting *out)
{
    struct lg_waiting_endpoint all[64];
    size_t count = 0;
    for (uint32_t i = 0; i < w->snap->endpoint_count && count < 64; i++) {
        const struct lg_endpoint *e = lg_worker_endpoint(w, i);
        uint64_t open = e != NULL ? LG_LO(e->in_flight_threshold_us) : 0;
        open -= i == blocker && open > 0 ? 1 : 0;
        if (open > 0) {
            all[count++] = (struct lg_waiting_endpoint){lg_worker_key(w, i), open, LG_NONE};
        }
    }
    qsort(all, count, sizeof(all[0]), most_waiting);
    out->endpoint_count = count < LG_WAITING_MAX ? count : LG_WAITING_MAX;
    memcpy(out->endpoint, all, out->endpoint_count * sizeof(all[0]));
}

static int
most_waiting(const void *a, const void *b)
{
    const struct lg_waiting_endpoint *x = a;
    const struct lg_waiting_endpoint *y = b;
    return x->requests > y->requests ? -1 : x->requests < y->requests ? 1 : 0;
}

/* ---- rows -------------------------------------------------------------- */

size_t
lg_top_rows(struct lg_top *top, size_t worker, const struct lg_view *view,
            const struct lg_row **out)
{
    struct builder b = {.top = top, .view = view, .workers = top->worker_count};
    size_t count = 0;
    *out = NULL;
    if (build(&b, worker)) {
        finish_rows(&b, fill_hists(&b));
        note_stalls(&b);
        count = keep_matching(&b);
        *out = top->private->rows;
    }
    free(b.bucket);
    free(b.row_of);
    return count;
}

/* Rows with summed counts. A worker's endpoint to row mapping is kept for all
 * workers in one array, `row_of`, worker after worker. */
static bool
build(struct builder *b, size_t worker)
{
    struct lg_top *top = b->top;
    size_t slots = 0;
    for (size_t i = 0; i < top->worker_count; i++) {
        slots += top->workers[i]->snap->endpoint_count;
    }
    b->buckets = 64;
    while (b->buckets < 2 * slots) {
        b->buckets *= 2;
    }
    b->bucket = calloc(b->buckets, sizeof(*b->bucket));
    b->row_of = malloc((slots + 1) * sizeof(*b->row_of));
    if (b->bucket == NULL || b->row_of == NULL) {
        return false;
    }
    memset(b->row_of, 0xff, (slots + 1) * sizeof(*b->row_of));
    uint32_t *all = b->row_of;
    uint32_t *row_of = all;
    bool good = true;
    for (size_t i = 0; i < top->worker_count && good; i++) {
        b->w = top->workers[i];
        b->index = i;
        b->row_of = row_of;
        if (i == worker || (worker == LG_ALL_WORKERS && !b->w->post_mortem)) {
            good = add_worker(b);
        }
        row_of += b->w->snap->endpoint_count;
    }
    b->row_of = all;
    return good;
}

static bool
add_worker(struct builder *b)
{
    struct lg_worker *w = b->w;
    for (uint32_t e = 0; e < w->snap->endpoint_count; e++) {
        const struct lg_endpoint *endpoint = lg_worker_endpoint(w, e);
        if (endpoint == NULL || is_empty(endpoint, e)) {
            continue;
        }
        struct lg_key key = lg_worker_key(w, e);
        struct lg_figures f;
        uint32_t row = row_for(b, &key);
        if (row == NO_ROW) {
            return false;
        }
        b->row_of[e] = row;
        if (!figures(w, e, b->view->window, &f)) {
            b->top->private->rows[row].unknown = true;
        }
        add_block(b, row, &f, &key);
        merge_row(b, row, e, &f);
    }
    return true;
}

/* The row of a key, a new one when there is none. */
static uint32_t
row_for(struct builder *b, const struct lg_key *key)
{
    struct lg_top_private *p = b->top->private;
    size_t at = hash_key(key) & (b->buckets - 1);
    while (b->bucket[at] != 0) {
        if (lg_key_equal(&p->rows[b->bucket[at] - 1].key, key)) {
            return b->bucket[at] - 1;
        }
        at = (at + 1) & (b->buckets - 1);
    }
    if (!make_room(b)) {
        return NO_ROW;
    }
    struct lg_row *row = &p->rows[b->count];
    *row = (struct lg_row){
        .key = *key,
        .now = {.requests_per_s = -1, .loop_share = -1, .busy_share = -1},
        .first_seen_ns = LG_NONE,
        .last_seen_ns = LG_NONE,
        .last_block_ns = LG_NONE,
        .last_block_age_ns = LG_NONE,
        .worst_worker = b->index,
    };
    uint64_t *columns = &p->by_worker[b->count * b->workers];
    for (size_t i = 0; i < b->workers; i++) {
        columns[i] = LG_NONE;
    }
    memset(&p->hists[2 * b->count], 0, 2 * sizeof(p->hists[0]));
    b->bucket[at] = (uint32_t)++b->count;
    return (uint32_t)b->count - 1;
}

static bool
make_room(struct builder *b)
{
    struct lg_top_private *p = b->top->private;
    if (b->count == p->row_room) {
        size_t room = p->row_room != 0 ? 2 * p->row_room : 32;
        struct lg_row *rows = realloc(p->rows, room * sizeof(*rows));
        p->rows = rows != NULL ? rows : p->rows;
        struct lg_hist *hists = rows != NULL ? aligned_alloc(64, 2 * room * sizeof(*hists)) : NULL;
        if (hists == NULL) {
            return false;
        }
        if (p->hists != NULL) {
            memcpy(hists, p->hists, 2 * b->count * sizeof(*hists));
        }
        free(p->hists);
        p->hists = hists;
        p->row_room = room;
    }
    if ((b->count + 1) * b->workers > p->by_worker_room) {
        size_t room = 2 * (b->count + 32) * b->workers;
        uint64_t *larger = realloc(p->by_worker, room * sizeof(*larger));
        if (larger == NULL) {
            return false;
        }
        p->by_worker = larger;
        p->by_worker_room = room;
    }
    return true;
}

/* FNV-1a. */
static uint64_t
hash_key(const struct lg_key *key)
{
    uint64_t hash = UINT64_C(14695981039346656037) ^ (key->kind << 8 | key->method);
    for (const char *c = key->name; *c != '\0'; c++) {
        hash = (hash ^ (unsigned char)*c) * UINT64_C(1099511628211);
    }
    return hash ^ hash >> 29;
}

/* Slots that nothing was ever counted in: "(other)" of a calm worker. */
static bool
is_empty(const struct lg_endpoint *e, uint32_t index)
{
    return index == 0 && e->requests == 0 && e->steps == 0 && e->blocks == 0 &&
           LG_LO(e->in_flight_threshold_us) == 0;
}

/* False when the segment has no history of this endpoint: a cut file. */
static bool
figures(const struct lg_worker *w, uint32_t e, enum lg_window window, struct lg_figures *out)
{
    uint64_t born = w->snap->source.geo.proc.start_mono_ns;
    *out = (struct lg_figures){0};
    if (window == LG_WINDOW_TOTAL) {
        total_figures(w, e, out);
        out->covered_ns = lg_window_covered(w, window, born, 1);
        return true;
    }
    if (e >= w->snap->endpoint_history_count) {
        return false;
    }
    cell_figures(w, e, window, out);
    out->covered_ns = lg_window_covered(w, window, born, window == LG_WINDOW_5M ? 10 : 1);
    return true;
}

static void
total_figures(const struct lg_worker *w, uint32_t e, struct lg_figures *out)
{
    static const struct lg_endpoint none;
    const struct lg_endpoint *now = &w->snap->endpoints[e];
    const struct lg_baseline *zero = w->private->baseline;
    const struct lg_endpoint *was =
        zero != NULL && e < zero->endpoint_count ? &zero->endpoints[e] : &none;
    out->requests = lg_less(now->requests, was->requests);
    out->steps = lg_less(now->steps, was->steps);
    out->busy_ns = lg_less(now->on_loop_sum_ns, was->on_loop_sum_ns);
    out->blocked_ns = lg_less(now->blocked_ns, was->blocked_ns);
    out->blocks = lg_less(now->blocks, was->blocks);
    out->waited = lg_less(LG_HI(now->cumulative_waited), LG_HI(was->cumulative_waited));
    out->max_ns = now->step_max_ns;
    if (zero == NULL || now->step_max_ns > was->step_max_ns) {
        return;
    }
    /* The longest was before the base line: the highest bucket added since. */
    struct lg_hist added;
    uint32_t index = LG_HIST_ON_LOOP(e);
    out->max_ns = 0;
    if (index < w->snap->hist_count && index < zero->hist_count &&
        lg_hist_subtract(&w->snap->hists[index], &zero->hists[index], &added)) {
        uint64_t us = lg_hist_quantile_us(&added, 1.0);
        out->max_ns = us != LG_NONE ? lg_us_ns(us) : 0;
    }
}

static void
cell_figures(const struct lg_worker *w, uint32_t e, enum lg_window window, struct lg_figures *out)
{
    bool tens = window == LG_WINDOW_5M;
    uint64_t cell_s = tens ? 10 : 1;
    uint32_t from = tens ? LG_CELLS_1S : 0;
    uint32_t count = tens ? LG_CELLS_10S : LG_CELLS_1S;
    uint64_t last = w->private->base_ns / LG_NS_PER_S / cell_s;
    uint64_t first = lg_window_first_cell(w, window, cell_s);
    const struct lg_cell *cells = &w->snap->endpoint_history[(size_t)e * LG_CELLS + from];
    for (uint32_t i = 0; i < count; i++) {
        const struct lg_cell *c = &cells[i];
        uint64_t second = LG_LO(c->second_requests);
        if (second == 0 || second < first || second > last || second % count != i) {
            continue;
        }
        out->requests += LG_HI(c->second_requests);
        out->steps += LG_LO(c->steps_busy_us);
        out->busy_ns += lg_us_ns(LG_HI(c->steps_busy_us));
        out->blocked_ns += lg_us_ns(LG_LO(c->blocked_us_blocks));
        out->blocks += LG_HI(c->blocked_us_blocks);
        out->waited += LG_HI(c->max_step_us_waited);
        uint64_t max = lg_us_ns(LG_LO(c->max_step_us_waited));
        out->max_ns = max > out->max_ns ? max : out->max_ns;
    }
}

/* The block that lasts now is counted as far as it got. */
static void
add_block(struct builder *b, uint32_t row, struct lg_figures *f, const struct lg_key *key)
{
    const struct lg_worker *w = b->w;
    if (!lg_worker_in_block(w) || w->blocked.key.name == NULL ||
        !lg_key_equal(&w->blocked.key, key)) {
        return;
    }
    uint64_t ns = w->blocked.for_ns;
    uint64_t here = ns < f->covered_ns ? ns : f->covered_ns;
    f->blocked_ns = lg_plus(f->blocked_ns, here);
    f->busy_ns = lg_plus(f->busy_ns, here);
    f->blocks++;
    f->max_ns = ns > f->max_ns ? ns : f->max_ns;
    b->top->private->rows[row].running = true;
    b->top->private->rows[row].total_blocks++;
}

static void
merge_row(struct builder *b, uint32_t row, uint32_t e, const struct lg_figures *f)
{
    struct lg_row *r = &b->top->private->rows[row];
    const struct lg_worker *w = b->w;
    const struct lg_endpoint *endpoint = &w->snap->endpoints[e];
    uint64_t *columns = &b->top->private->by_worker[row * b->workers];
    uint64_t base = w->private->base_ns;
    columns[b->index] = f->blocked_ns;
    if (columns[r->worst_worker] == LG_NONE || f->blocked_ns > columns[r->worst_worker]) {
        r->worst_worker = b->index;
    }
    r->now.requests = lg_plus(r->now.requests, f->requests);
    r->now.steps = lg_plus(r->now.steps, f->steps);
    r->now.busy_ns = lg_plus(r->now.busy_ns, f->busy_ns);
    r->now.blocked_ns = lg_plus(r->now.blocked_ns, f->blocked_ns);
    r->now.blocks = lg_plus(r->now.blocks, f->blocks);
    r->now.waited = lg_plus(r->now.waited, f->waited);
    r->now.max_ns = f->max_ns > r->now.max_ns ? f->max_ns : r->now.max_ns;
    if (f->covered_ns >= LG_NS_PER_MS) {
        double s = (double)f->covered_ns / (double)LG_NS_PER_S;
        if (w->state != LG_WORKER_STALE || b->view->window == LG_WINDOW_TOTAL) {
            double before = r->now.requests_per_s > 0 ? r->now.requests_per_s : 0;
            r->now.requests_per_s = before + (double)f->requests / s;
        }
        /* Of all loops together: a share of the workers' whole time. */
        r->now.covered_ns = lg_plus(r->now.covered_ns, f->covered_ns);
        r->now.loop_share = (double)r->now.blocked_ns / (double)r->now.covered_ns;
        r->now.busy_share = (double)r->now.busy_ns / (double)r->now.covered_ns;
        r->now.loop_share = r->now.loop_share > 1 ? 1 : r->now.loop_share;
        r->now.busy_share = r->now.busy_share > 1 ? 1 : r->now.busy_share;
    }
    if (endpoint->requests > 0 || LG_KEY_KIND(endpoint->key) == LG_KIND_REQUEST) {
        r->total_requests += endpoint->requests;
    }
    r->total_blocks = lg_plus(r->total_blocks, endpoint->blocks);
    r->open += LG_LO(endpoint->in_flight_threshold_us);
    uint64_t own_us = LG_HI(endpoint->in_flight_threshold_us);
    r->threshold_ns = own_us != 0 ? lg_us_ns(own_us) : w->threshold_ns;
    if (endpoint->first_seen_ns != 0) {
        uint64_t age = lg_less(base, endpoint->first_seen_ns);
        r->first_seen_ns =
            r->first_seen_ns == LG_NONE || age > r->first_seen_ns ? age : r->first_seen_ns;
    }
    if (endpoint->last_seen_ns != 0) {
        uint64_t age = lg_less(base, endpoint->last_seen_ns);
        r->last_seen_ns = age < r->last_seen_ns ? age : r->last_seen_ns;
    }
    r->unclean = r->unclean || w->snap->unclean_rows > 0;
}

/* ---- quantiles --------------------------------------------------------- */

/* Fills the rows' histograms; all workers of a merged row must have them. */
static enum lg_quantile_source
fill_hists(struct builder *b)
{
    if (b->view->window == LG_WINDOW_TOTAL) {
        take_totals(b);
        return LG_QUANTILE_TOTAL;
    }
    enum lg_quantile_source source = LG_QUANTILE_HISTOGRAM;
    uint32_t *row_of = b->row_of;
    for (size_t i = 0; i < b->top->worker_count && source == LG_QUANTILE_HISTOGRAM; i++) {
        const struct lg_worker *w = b->top->workers[i];
        uint64_t since = lg_less(w->private->base_ns, lg_window_ns(b->view->window));
        const struct lg_baseline *zero = w->private->baseline;
        since = zero != NULL && zero->at_ns > since ? zero->at_ns : since;
        bool used = false;
        for (uint32_t e = 0; e < w->snap->endpoint_count; e++) {
            used = used || row_of[e] != NO_ROW;
        }
        row_of += w->snap->endpoint_count;
        if (used && (!w->snap->live || !lg_deltas_cover(w->private->deltas, since))) {
            source = LG_QUANTILE_RECORDS;
        }
    }
    uint32_t *all = b->row_of;
    for (size_t i = 0; i < b->top->worker_count; i++) {
        b->w = b->top->workers[i];
        b->index = i;
        uint64_t since = lg_less(b->w->private->base_ns, lg_window_ns(b->view->window));
        const struct lg_baseline *zero = b->w->private->baseline;
        since = zero != NULL && zero->at_ns > since ? zero->at_ns : since;
        if (source == LG_QUANTILE_HISTOGRAM) {
            lg_deltas_walk(b->w->private->deltas, since, take_delta, b);
        }
        else if (!take_records(b, since)) {
            source = LG_QUANTILE_NONE;
        }
        b->row_of += b->w->snap->endpoint_count;
    }
    b->row_of = all;
    return source;
}

static void
take_delta(void *arg, uint32_t hist, uint32_t bucket, uint64_t count)
{
    struct builder *b = arg;
    uint32_t e = hist / 2;
    if (e >= b->w->snap->endpoint_count || b->row_of[e] == NO_ROW || bucket >= LG_HIST_BUCKETS) {
        return;
    }
    /* Even: response; odd: on-loop. Ours: steps first. */
    struct lg_hist *into = &b->top->private->hists[2 * b->row_of[e] + (hist % 2 == 0 ? 1 : 0)];
    into->bucket[bucket] = lg_plus(into->bucket[bucket], count);
}

static void
take_totals(struct builder *b)
{
    uint32_t *all = b->row_of;
    for (size_t i = 0; i < b->top->worker_count; i++) {
        const struct lg_snapshot *snap = b->top->workers[i]->snap;
        const struct lg_baseline *zero = b->top->workers[i]->private->baseline;
        for (uint32_t e = 0; e < snap->endpoint_count; e++) {
            for (uint32_t k = 0; k < 2 && b->row_of[e] != NO_ROW; k++) {
                uint32_t index = k == 0 ? LG_HIST_ON_LOOP(e) : LG_HIST_RESPONSE(e);
                struct lg_hist part;
                if (index >= snap->hist_count) {
                    continue;
                }
                part = snap->hists[index];
                if (zero != NULL && index < zero->hist_count) {
                    lg_hist_subtract(&snap->hists[index], &zero->hists[index], &part);
                }
                lg_hist_merge(&b->top->private->hists[2 * b->row_of[e] + k], &part);
            }
        }
        b->row_of += snap->endpoint_count;
    }
    b->row_of = all;
}

/* Finished requests of the window, when the ring reaches back that far. */
static bool
take_records(struct builder *b, uint64_t since_ns)
{
    const struct lg_snapshot *snap = b->w->snap;
    const struct lg_records *ring = &snap->rings[LG_RING_REQUESTS];
    bool used = false;
    for (uint32_t e = 0; e < snap->endpoint_count; e++) {
        used = used || b->row_of[e] != NO_ROW;
    }
    if (!used) {
        return true;
    }
    if (ring->capacity == 0 || ring->cursor.damaged) {
        return false;
    }
    const struct lg_record *oldest = lg_snapshot_record(snap, LG_RING_REQUESTS, ring->from);
    bool everything = ring->from == ring->first;
    if (!everything && (oldest == NULL || oldest->time_ns > since_ns)) {
        return false;
    }
    for (uint64_t t = ring->from; t < ring->to; t++) {
        const struct lg_record *rec = lg_snapshot_record(snap, LG_RING_REQUESTS, t);
        if (rec == NULL) {
            continue;
        }
        uint32_t e = LG_TAG_ENDPOINT(rec->tag);
        if (LG_TAG_KIND(rec->tag) != LG_REC_REQUEST || rec->time_ns < since_ns ||
            e >= snap->endpoint_count || b->row_of[e] == NO_ROW) {
            continue;
        }
        struct lg_hist *into = &b->top->private->hists[2 * b->row_of[e]];
        into[0].bucket[lg_hist_index(rec->p[2] / LG_NS_PER_US)]++;
        into[1].bucket[lg_hist_index(rec->p[0] / LG_NS_PER_US)]++;
    }
    return true;
}

static void
finish_rows(struct builder *b, enum lg_quantile_source source)
{
    struct lg_top_private *p = b->top->private;
    for (size_t i = 0; i < b->count; i++) {
        struct lg_row *row = &p->rows[i];
        bool known = source != LG_QUANTILE_NONE;
        lg_quantiles_of(known ? &p->hists[2 * i] : NULL, source, &row->now.step);
        lg_quantiles_of(known ? &p->hists[2 * i + 1] : NULL, source, &row->now.response);
        /* A bucket's upper edge may lie above the longest step of all. */
        if (row->now.max_ns != 0) {
            uint64_t max_us = row->now.max_ns / LG_NS_PER_US;
            uint64_t *q[] = {&row->now.step.p50_us, &row->now.step.p90_us, &row->now.step.p99_us,
                             &row->now.step.p999_us};
            for (size_t k = 0; k < sizeof(q) / sizeof(q[0]); k++) {
                *q[k] = *q[k] != LG_NONE && *q[k] > max_us ? max_us : *q[k];
            }
        }
        row->step_hist = known ? &p->hists[2 * i] : NULL;
        if (row->unknown) {
            row->now = (struct lg_figures){
                .requests = LG_NONE,
                .steps = LG_NONE,
                .busy_ns = LG_NONE,
                .blocked_ns = LG_NONE,
                .blocks = LG_NONE,
                .max_ns = LG_NONE,
                .waited = LG_NONE,
                .requests_per_s = -1,
                .loop_share = -1,
                .busy_share = -1,
                .step = row->now.step,
                .response = row->now.response,
            };
        }
        row->blocked_by_worker = &p->by_worker[i * b->workers];
    }
}

/* Last and worst block of each row, of the stalls kept. */
static void
note_stalls(struct builder *b)
{
    struct lg_top_private *p = b->top->private;
    uint64_t *worst = calloc(b->count + 1, sizeof(*worst));
    uint32_t *row_of = b->row_of;
    for (size_t i = 0; i < b->top->worker_count && worst != NULL; i++) {
        struct lg_worker *w = b->top->workers[i];
        for (uint32_t k = 0; k < w->snap->stall_count; k++) {
            const struct lg_stall *s = &w->snap->stalls[k];
            uint32_t e = LG_LO(s->endpoint_holder);
            if (s->ticket == 0 || e >= w->snap->endpoint_count || row_of[e] == NO_ROW ||
                w->snap->stall_torn[k] || LG_INFO_KIND(s->info) > LG_STALL_ITERATION) {
                continue;
            }
            struct lg_row *row = &p->rows[row_of[e]];
            const struct lg_stack_view *stack = lg_worker_stack(w, LG_LO(s->stack_holder_stack));
            const struct lg_stack_frame *frame = stack != NULL ? lg_stack_user_frame(stack) : NULL;
            uint64_t end = lg_plus(s->start_ns, s->duration_ns);
            uint64_t age = lg_less(w->private->base_ns, end);
            if (row->last_block_age_ns == LG_NONE || age < row->last_block_age_ns) {
                row->last_block_age_ns = age;
                row->last_block_ns = s->duration_ns;
                row->last_frame = frame;
            }
            if (frame != NULL && s->duration_ns >= worst[row_of[e]]) {
                worst[row_of[e]] = s->duration_ns;
                row->worst_frame = frame;
            }
        }
        row_of += w->snap->endpoint_count;
    }
    free(worst);
}

/* ---- order ------------------------------------------------------------- */

/* qsort() has no argument for the order: it stands in every row, packed into
 * a key pair beforehand. */
struct sortable {
    struct lg_row row;
    double value;
    bool by_name;
    bool reverse;
};

static double
sort_value(const struct lg_row *row, enum lg_sort sort)
{
    const struct lg_quantiles *q = &row->now.step;
#define KNOWN(us) ((us) == LG_NONE ? -1.0 : (double)(us))
    if (row->unknown) {
        return -1;
    }
    switch (sort) {
    case LG_SORT_BLOCKED:
        return (double)row->now.blocked_ns;
    case LG_SORT_BLOCKS:
        return (double)row->now.blocks;
    case LG_SORT_MAX:
        return (double)row->now.max_ns;
    case LG_SORT_P99:
        return KNOWN(q->p99_us);
    case LG_SORT_P90:
        return KNOWN(q->p90_us);
    case LG_SORT_P50:
        return KNOWN(q->p50_us);
    case LG_SORT_BUSY:
        return (double)row->now.busy_ns;
    case LG_SORT_RATE:
        return row->now.requests_per_s;
    case LG_SORT_OPEN:
        return (double)row->open;
    case LG_SORT_WAITED:
        return (double)row->now.waited;
    case LG_SORT_TOTAL:
        return (double)row->total_blocks;
    default:
        return 0;
    }
#undef KNOWN
}

static size_t
keep_matching(struct builder *b)
{
    struct lg_top_private *p = b->top->private;
    const struct lg_view *view = b->view;
    size_t kept = 0;
    for (size_t i = 0; i < b->count; i++) {
        const struct lg_row *row = &p->rows[i];
        if (!lg_filter_matches(view->filter, &row->key, NULL) ||
            (view->min_ns > 0 && !row->unknown && row->now.max_ns < view->min_ns)) {
            continue;
        }
        p->rows[kept++] = *row;
    }
    struct sortable *order = kept > 1 ? malloc(kept * sizeof(*order)) : NULL;
    for (size_t i = 0; order != NULL && i < kept; i++) {
        order[i].row = p->rows[i];
        order[i].value = sort_value(&p->rows[i], view->sort);
        order[i].by_name = view->sort == LG_SORT_NAME;
        order[i].reverse = view->reverse;
    }
    if (order != NULL) {
        qsort(order, kept, sizeof(*order), compare_rows);
        for (size_t i = 0; i < kept; i++) {
            p->rows[i] = order[i].row;
        }
        free(order);
    }
    return view->top != 0 && view->top < kept ? view->top : kept;
}

/* Largest first, then the longer step, then the name: a calm table stands. */
static int
compare_rows(const void *a, const void *b)
{
    const struct sortable *x = a;
    const struct sortable *y = b;
    int order = 0;
    if (!x->by_name && x->value != y->value) {
        order = x->value > y->value ? -1 : 1;
        return x->reverse ? -order : order;
    }
    if (!x->by_name && x->row.now.max_ns != y->row.now.max_ns) {
        order = x->row.now.max_ns > y->row.now.max_ns ? -1 : 1;
        return x->reverse ? -order : order;
    }
    order = strcmp(x->row.key.name, y->row.key.name);
    if (order == 0) {
        order = (int)x->row.key.method - (int)y->row.key.method;
    }
    if (order == 0) {
        order = (int)x->row.key.kind - (int)y->row.key.kind;
    }
    return x->reverse ? -order : order;
}

/* ---- detail ------------------------------------------------------------ */

bool
lg_top_detail(struct lg_top *top, size_t worker, const struct lg_view *view,
              const struct lg_key *key, enum lg_band_set bands, enum lg_stack_order order,
              const struct lg_detail **out)
{
    struct lg_view all = {.window = view->window, .min_ns = 0};
    const struct lg_row *rows;
    size_t count = lg_top_rows(top, worker, &all, &rows);
    for (size_t i = 0; i < count; i++) {
        if (lg_key_equal(&rows[i].key, key)) {
            *out = lg_top_row_detail(top, worker, view, &rows[i], bands, order);
            return true;
        }
    }
    return false;
}

const struct lg_detail *
lg_top_row_detail(struct lg_top *top, size_t worker, const struct lg_view *view,
                  const struct lg_row *row, enum lg_band_set bands, enum lg_stack_order order)
{
    struct lg_detail *d = &top->private->detail;
    memset(d, 0, sizeof(*d));
    d->row = *row;
    set_bands(d, bands);
    set_timeline(top, worker, &d->row.key, d);
    set_counters(top, worker, &d->row.key, d);
    set_stalls(top, worker, view, &d->row.key, d);
    sort_stacks(top->private->weighted, d->stack_count, order);
    d->stacks = top->private->weighted;
    set_hint(d);
    return d;
}

static void
set_bands(struct lg_detail *out, enum lg_band_set set)
{
    static const struct {
        unsigned first_bit, bits_apart, bands;
    } sets[] = {
        [LG_BANDS_MEDIUM] = {10, 1, 12},
        [LG_BANDS_COARSE] = {10, 2, 7},
        [LG_BANDS_FINE] = {9, 1, 14},
    };
    const struct lg_hist *hist = out->row.step_hist;
    out->band_source = hist != NULL ? out->row.now.step.source : LG_QUANTILE_NONE;
    if (hist == NULL) {
        return;
    }
    out->band_count = sets[set].bands;
    uint64_t lo = 0;
    for (size_t i = 0; i < out->band_count; i++) {
        uint64_t hi = UINT64_C(1) << (sets[set].first_bit + i * sets[set].bits_apart);
        bool last = i + 1 == out->band_count;
        out->band[i] = (struct lg_band){.lo_us = lo, .hi_us = last ? LG_NONE : hi};
        lo = hi;
    }
    for (uint32_t i = 0; i < LG_HIST_BUCKETS; i++) {
        uint64_t us = lg_hist_lo_us(i);
        size_t band = 0;
        while (band + 1 < out->band_count && us >= out->band[band].hi_us) {
            band++;
        }
        out->band[band].count = lg_plus(out->band[band].count, hist->bucket[i]);
    }
}

static void
set_timeline(struct lg_top *top, size_t worker, const struct lg_key *key, struct lg_detail *out)
{
    for (size_t k = 0; k < LG_LONG_SERIES; k++) {
        out->series_blocked_ns[k] = LG_NONE;
        out->series_max_ns[k] = LG_NONE;
    }
    for (size_t i = 0; i < top->worker_count; i++) {
        struct lg_worker *w = top->workers[i];
        if ((worker != i && worker != LG_ALL_WORKERS) ||
            (worker == LG_ALL_WORKERS && w->post_mortem)) {
            continue;
        }
        uint32_t e = endpoint_of(w, key);
        if (e == UINT32_MAX || e >= w->snap->endpoint_history_count) {
            continue;
        }
        uint64_t last = w->private->base_ns / LG_NS_PER_S;
        const struct lg_cell *cells = &w->snap->endpoint_history[(size_t)e * LG_CELLS];
        /* The oldest cells are being overwritten: 60 of 64 are sure. */
        for (size_t back = 0; back < LG_SERIES && back <= last; back++) {
            size_t k = LG_LONG_SERIES - 1 - back;
            uint64_t second = last - back;
            const struct lg_cell *c = &cells[second % LG_CELLS_1S];
            bool here = LG_LO(c->second_requests) == (uint32_t)second;
            uint64_t blocked = here ? lg_us_ns(LG_LO(c->blocked_us_blocks)) : 0;
            uint64_t max = here ? lg_us_ns(LG_LO(c->max_step_us_waited)) : 0;
            if (second * LG_NS_PER_S + LG_NS_PER_S <= w->snap->source.geo.proc.start_mono_ns) {
                break;
            }
            if (back == 0 && lg_worker_in_block(w) && w->blocked.key.name != NULL &&
                lg_key_equal(&w->blocked.key, key)) {
                blocked = lg_plus(blocked, w->blocked.for_ns);
                max = w->blocked.for_ns > max ? w->blocked.for_ns : max;
            }
            uint64_t *sum = &out->series_blocked_ns[k];
            *sum = lg_plus(*sum == LG_NONE ? 0 : *sum, blocked);
            uint64_t *top_max = &out->series_max_ns[k];
            *top_max = *top_max == LG_NONE || max > *top_max ? max : *top_max;
            out->series_seconds = back + 1 > out->series_seconds ? back + 1 : out->series_seconds;
        }
    }
}

static void
set_counters(struct lg_top *top, size_t worker, const struct lg_key *key, struct lg_detail *out)
{
    for (size_t i = 0; i < top->worker_count; i++) {
        struct lg_worker *w = top->workers[i];
        uint32_t index = worker == i || (worker == LG_ALL_WORKERS && !w->post_mortem)
                             ? endpoint_of(w, key)
                             : UINT32_MAX;
        if (index == UINT32_MAX) {
            continue;
        }
        const struct lg_endpoint *e = &w->snap->endpoints[index];
        for (size_t c = 0; c < LG_CAUSE_COUNT; c++) {
            out->parts_ns[c] = lg_plus(out->parts_ns[c], e->blocked_by_cause_ns[c]);
        }
        out->status[0] = lg_plus(out->status[0], e->status_2xx);
        out->status[1] = lg_plus(out->status[1], e->status_3xx);
        out->status[2] = lg_plus(out->status[2], e->status_4xx);
        out->status[3] = lg_plus(out->status[3], e->status_5xx);
        out->exceptions = lg_plus(out->exceptions, e->exceptions);
        out->cancelled = lg_plus(out->cancelled, e->cancelled);
        out->pool_wait_ns = lg_plus(out->pool_wait_ns, e->pool_wait_ns);
        out->pool_run_ns = lg_plus(out->pool_run_ns, e->pool_run_ns);
        out->cumulative_events += LG_LO(e->cumulative_waited);
    }
}

/* Stacks, earlier blocks and who waited, of the stalls kept that began in the
 * window. */
static void
set_stalls(struct lg_top *top, size_t worker, const struct lg_view *view, const struct lg_key *key,
           struct lg_detail *out)
{
    size_t stacks = 0;
    struct lg_event newest[8];
    size_t newest_count = 0;
    for (size_t i = 0; i < top->worker_count; i++) {
        struct lg_worker *w = top->workers[i];
        uint32_t e = worker == i || (worker == LG_ALL_WORKERS && !w->post_mortem)
                         ? endpoint_of(w, key)
                         : UINT32_MAX;
        uint64_t since = 0;
        if (view->window != LG_WINDOW_TOTAL) {
            since = lg_less(w->private->base_ns, lg_window_ns(view->window));
        }
        for (uint32_t k = 0; e != UINT32_MAX && k < w->snap->stall_count; k++) {
            const struct lg_stall *s = &w->snap->stalls[k];
            struct lg_event event;
            if (s->ticket == 0 || LG_LO(s->endpoint_holder) != e || w->snap->stall_torn[k]) {
                continue;
            }
            lg_event_of(top, i, s, false, &event);
            /* Sorted in by age; the oldest falls out. */
            size_t place = newest_count;
            while (place > 0 && newest[place - 1].mono_ns < event.mono_ns) {
                place--;
            }
            if (place < 8) {
                size_t tail = newest_count < 8 ? newest_count : 7;
                memmove(&newest[place + 1], &newest[place],
                        (tail > place ? tail - place : 0) * sizeof(newest[0]));
                newest[place] = event;
                newest_count = tail + 1;
            }
            uint64_t end = lg_plus(s->start_ns, event.duration_ns);
            if (end < since || event.duration_ns < view->min_ns ||
                event.kind > LG_STALL_ITERATION) {
                continue;
            }
            const struct lg_stack_view *stack = lg_worker_stack(w, LG_LO(s->stack_holder_stack));
            weigh(top, &stacks, stack, event.duration_ns, 1, event.duration_ns,
                  lg_less(w->private->base_ns, end));
            struct lg_waiting waited;
            lg_stall_waited(w, s, &waited);
            if (!event.ongoing) {
                add_waiting(&out->waited, &waited);
            }
        }
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < stacks; i++) {
        sum = lg_plus(sum, top->private->weighted[i].total_ns);
    }
    for (size_t i = 0; i < stacks && sum > 0; i++) {
        struct lg_weighted_stack *s = &top->private->weighted[i];
        s->share = (double)s->total_ns / (double)sum;
    }
    out->stack_count = stacks;
    memcpy(out->earlier, newest, newest_count * sizeof(newest[0]));
    out->earlier_count = newest_count;
}

/* `stack` NULL: blocks of which nobody saw a stack. */
static void
weigh(struct lg_top *top, size_t *count, const struct lg_stack_view *stack, uint64_t ns,
      uint64_t times, uint64_t max_ns, uint64_t age_ns)
{
    struct lg_top_private *p = top->private;
    struct lg_weighted_stack *s = NULL;
    for (size_t i = 0; i < *count && s == NULL; i++) {
        s = p->weighted[i].stack == stack ? &p->weighted[i] : NULL;
    }
    if (s == NULL) {
        if (*count == p->weighted_room) {
            size_t room = p->weighted_room != 0 ? 2 * p->weighted_room : 16;
            struct lg_weighted_stack *larger = realloc(p->weighted, room * sizeof(*larger));
            if (larger == NULL) {
                return;
            }
            p->weighted = larger;
            p->weighted_room = room;
        }
        s = &p->weighted[(*count)++];
        *s = (struct lg_weighted_stack){.stack = stack, .last_age_ns = LG_NONE};
    }
    s->total_ns = lg_plus(s->total_ns, ns);
    s->count += times;
    s->max_ns = max_ns > s->max_ns ? max_ns : s->max_ns;
    s->last_age_ns = age_ns < s->last_age_ns ? age_ns : s->last_age_ns;
}

static void
add_waiting(struct lg_waiting *into, const struct lg_waiting *from)
{
    into->requests = lg_plus(into->requests, from->requests);
    into->sum_ns = lg_plus(into->sum_ns, from->sum_ns);
    into->longest_ns = from->longest_ns > into->longest_ns ? from->longest_ns : into->longest_ns;
    for (size_t i = 0; i < from->endpoint_count; i++) {
        const struct lg_waiting_endpoint *add = &from->endpoint[i];
        size_t k = 0;
        while (k < into->endpoint_count && !lg_key_equal(&into->endpoint[k].key, &add->key)) {
            k++;
        }
        if (k == LG_WAITING_MAX) {
            continue;
        }
        if (k == into->endpoint_count) {
            into->endpoint[into->endpoint_count++] = *add;
            continue;
        }
        into->endpoint[k].requests += add->requests;
        into->endpoint[k].wait_ns = lg_plus(into->endpoint[k].wait_ns, add->wait_ns);
    }
    qsort(into->endpoint, into->endpoint_count, sizeof(into->endpoint[0]), most_waiting);
}

static int
by_time(const void *a, const void *b)
{
    const struct lg_weighted_stack *x = a;
    const struct lg_weighted_stack *y = b;
    return x->total_ns > y->total_ns ? -1 : x->total_ns < y->total_ns ? 1 : 0;
}

static int
by_count(const void *a, const void *b)
{
    const struct lg_weighted_stack *x = a;
    const struct lg_weighted_stack *y = b;
    return x->count > y->count ? -1 : x->count < y->count ? 1 : by_time(a, b);
}

static int
by_max(const void *a, const void *b)
{
    const struct lg_weighted_stack *x = a;
    const struct lg_weighted_stack *y = b;
    return x->max_ns > y->max_ns ? -1 : x->max_ns < y->max_ns ? 1 : by_time(a, b);
}

static int
by_last(const void *a, const void *b)
{
    const struct lg_weighted_stack *x = a;
    const struct lg_weighted_stack *y = b;
    return x->last_age_ns < y->last_age_ns   ? -1
           : x->last_age_ns > y->last_age_ns ? 1
                                             : by_time(a, b);
}

static void
sort_stacks(struct lg_weighted_stack *stacks, size_t count, enum lg_stack_order order)
{
    static int (*const orders[])(const void *, const void *) = {
        [LG_STACKS_BY_TIME] = by_time,
        [LG_STACKS_BY_COUNT] = by_count,
        [LG_STACKS_BY_MAX] = by_max,
        [LG_STACKS_BY_LAST] = by_last,
    };
    if (count > 1) {
        qsort(stacks, count, sizeof(*stacks), orders[order]);
    }
}

/* One line of advice, by what most of the blocked time went to. */
static void
set_hint(struct lg_detail *out)
{
    size_t most = LG_CAUSE_OTHER;
    uint64_t ns = 0;
    for (size_t i = 0; i < LG_CAUSE_OTHER; i++) {
        if (out->parts_ns[i] > ns) {
            ns = out->parts_ns[i];
            most = i;
        }
    }
    const char *who = out->row.worst_frame != NULL ? out->row.worst_frame->function : "This";
    const char *text = NULL;
    switch (most) {
    case LG_CAUSE_CPU:
        text =
            "computes on the event loop. A plain def endpoint, or run_in_threadpool, keeps "
            "the loop free.";
        break;
    case LG_CAUSE_IO:
        text = "waits in a blocking call. Use the async client, or run_in_threadpool.";
        break;
    case LG_CAUSE_DISK:
        text = "reads or writes files on the event loop. Do it in run_in_threadpool.";
        break;
    case LG_CAUSE_LOCK:
        text = "waits for a lock that another thread holds. Use asyncio.Lock, or a thread.";
        break;
    case LG_CAUSE_GIL:
        text = "is not slow itself: another thread held the GIL. See the holder's stack.";
        break;
    case LG_CAUSE_GC:
        text = "paid for garbage collection. gc.freeze() after start makes it shorter.";
        break;
    case LG_CAUSE_SCHEDULER:
        text = "was ready but not running: too few CPUs, or a cgroup limit.";
        break;
    case LG_CAUSE_PAGE_FAULT:
        text = "waited for memory pages: look at memory limits and swap.";
        break;
    default:
        break;
    }
    if (text != NULL && ns > 0) {
        snprintf(out->hint, sizeof(out->hint), "%.60s %s", who, text);
    }
}

static uint32_t
endpoint_of(struct lg_worker *w, const struct lg_key *key)
{
    for (uint32_t i = 0; i < w->snap->endpoint_count; i++) {
        if (lg_worker_endpoint(w, i) != NULL) {
            struct lg_key here = lg_worker_key(w, i);
            if (lg_key_equal(&here, key)) {
                return i;
            }
        }
    }
    return UINT32_MAX;
}
