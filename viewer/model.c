/*
 * model.c - workers: their clocks, states and sums; see model.h.
 *
 * "Now" of a worker is the clock while it lives and its last heartbeat after
 * it died: all windows and ages count from there.
 */
#include "model.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../common/lg_error.h"
#include "../common/lg_proc.h"
#include "model_private.h"

#define SCAN_NS (2 * LG_NS_PER_S)       /* looking for new workers */
#define SANE_NS (UINT64_C(100) * 366 * 86400 * LG_NS_PER_S)

static void describe(struct lg_worker *w);
static void compute(struct lg_top *top, struct lg_worker *w, size_t index);
static void set_times(struct lg_top *top, struct lg_worker *w);
static uint64_t last_sign(const struct lg_worker *w);
static void set_state(struct lg_worker *w);
static void set_loops(struct lg_top *top, struct lg_worker *w);
static void set_loop(struct lg_top *top, struct lg_worker *w, uint32_t index);
static void set_loop_sums(struct lg_worker *w, uint32_t index);
static void add_cells(const struct lg_worker *w, uint32_t loop, enum lg_window window,
                      struct lg_window_sum *out);
static void add_block(const struct lg_worker *w, uint32_t loop, struct lg_window_sum *out);
static void finish_sum(struct lg_window_sum *sum);
static void set_lag_quantiles(struct lg_worker *w);
static void take_lag(void *arg, uint32_t hist, uint32_t bucket, uint64_t count);
static void merge_sums(struct lg_worker *w);
static void set_series(struct lg_worker *w);
static void set_facts(struct lg_worker *w);
static void set_pool(struct lg_worker *w);
static void set_words(struct lg_top *top, struct lg_worker *w);
static void look_for_new(struct lg_top *top);
static bool belongs(const struct lg_top *top, const struct lg_source *source);
static void common_parent(struct lg_top *top);
static void free_worker(struct lg_worker *w);
static void free_baseline(struct lg_baseline *b);
static struct lg_baseline *take_baseline(const struct lg_worker *w);

/* ---- words of the tables ----------------------------------------------- */

const char *
lg_window_text(enum lg_window window)
{
    static const char *const texts[] = {
#define LG_X(name, text, seconds) text,
        LG_WINDOWS(LG_X)
#undef LG_X
    };
    assert(window < LG_WINDOW_COUNT);
    return texts[window];
}

uint64_t
lg_window_ns(enum lg_window window)
{
    static const uint64_t lengths[] = {
#define LG_X(name, text, seconds) (seconds) * LG_NS_PER_S,
        LG_WINDOWS(LG_X)
#undef LG_X
    };
    assert(window < LG_WINDOW_COUNT);
    return lengths[window];
}

static const struct {
    const char *key;
    const char *heading;
} sorts[] = {
#define LG_X(name, key, heading, what) {key, heading},
    LG_SORTS(LG_X)
#undef LG_X
};

const char *
lg_sort_key(enum lg_sort sort)
{
    assert(sort < LG_SORT_COUNT);
    return sorts[sort].key;
}

const char *
lg_sort_heading(enum lg_sort sort)
{
    assert(sort < LG_SORT_COUNT);
    return sorts[sort].heading;
}

bool
lg_window_from_text(const char *text, enum lg_window *out)
{
    for (int i = 0; i < LG_WINDOW_COUNT; i++) {
        if (strcmp(text, lg_window_text((enum lg_window)i)) == 0) {
            *out = (enum lg_window)i;
            return true;
        }
    }
    return false;
}

bool
lg_sort_from_text(const char *text, enum lg_sort *out)
{
    for (int i = 0; i < LG_SORT_COUNT; i++) {
        if (strcmp(text, sorts[i].key) == 0) {
            *out = (enum lg_sort)i;
            return true;
        }
    }
    return false;
}

const char *
lg_worker_state_text(enum lg_worker_state state)
{
    switch (state) {
    case LG_WORKER_LIVE:
        return "live";
    case LG_WORKER_STALE:
        return "stale";
    case LG_WORKER_EXITED:
        return "exited";
    case LG_WORKER_DEAD:
        return "dead";
    case LG_WORKER_CUT:
        return "cut";
    default:
        return "off";
    }
}

bool
lg_key_equal(const struct lg_key *a, const struct lg_key *b)
{
    return a->kind == b->kind && a->method == b->method && strcmp(a->name, b->name) == 0;
}

bool
lg_worker_problem(const struct lg_worker *w, struct lg_problem *out)
{
    const struct lg_snapshot *snap = w->snap;
    const struct lg_source *source = &snap->source;
    char a[LG_TEXT];
    char b[LG_TEXT];
    uint64_t named = snap->endpoint_count - snap->bad_endpoints;
    uint64_t all = snap->endpoint_count + snap->cut_endpoints;
    bool whole = (snap->missing & 1u << LG_SEC_ENDPOINTS) == 0 && snap->cut_endpoints == 0 &&
                 (snap->cut_sections & 1u << LG_SEC_ENDPOINTS) == 0;
    int status = whole && named > 0 ? LG_EXIT_OK : LG_EXIT_SEGMENT;
    if (source->file_size < source->geo.header.segment_size) {
        lg_problem_set(out, w->pid, w->label, "cut_short", status,
                       "cut short: %s of %s bytes; showing what is whole",
                       lg_format_count(source->file_size, a, sizeof(a)),
                       lg_format_count(source->geo.header.segment_size, b, sizeof(b)));
        return true;
    }
    if (snap->fault_count == 0) {
        return false;
    }
    size_t more = snap->fault_count - 1;
    char others[64] = "";
    if (more > 0) {
        snprintf(others, sizeof(others), " and %zu more place%s", more, more == 1 ? "" : "s");
    }
    lg_problem_set(out, w->pid, w->label, "damaged", status,
                   "damaged at byte %s (%s)%s; %s of %s endpoints shown",
                   lg_format_count(snap->faults[0].offset, a, sizeof(a)), snap->faults[0].what,
                   others, lg_format_count(named, b, sizeof(b)),
                   lg_format_count(all, (char[LG_TEXT]){0}, LG_TEXT));
    return true;
}

/* ---- the whole --------------------------------------------------------- */

int
lg_top_new(struct lg_top **out)
{
    struct lg_top *top = calloc(1, sizeof(*top));
    if (top == NULL) {
        return -ENOMEM;
    }
    top->private = calloc(1, sizeof(*top->private));
    if (top->private == NULL) {
        free(top);
        return -ENOMEM;
    }
    const char *frozen = getenv("LOOPGUARD_TEST_NOW");
    if (frozen != NULL && frozen[0] != '\0') {
        top->private->frozen = true;
        top->private->frozen_ns = strtoull(frozen, NULL, 10);
    }
    *out = top;
    return 0;
}

void
lg_top_free(struct lg_top *top)
{
    if (top == NULL) {
        return;
    }
    for (size_t i = 0; i < top->worker_count; i++) {
        free_worker(top->workers[i]);
    }
    struct lg_top_private *p = top->private;
    free(top->workers);
    lg_problems_free(&top->problems);
    free(p->rows);
    free(p->hists);
    free(p->by_worker);
    free(p->events);
    free(p->weighted);
    free(p);
    free(top);
}

void
lg_top_unmapped(struct lg_top *top)
{
    top->private->unmapped = true;
}

int
lg_top_add(struct lg_top *top, struct lg_source *source, struct lg_problem *problem)
{
    char subject[256];
    pid_t pid = source->pid;
    snprintf(subject, sizeof(subject), "%s", source->label);
    for (size_t i = 0; i < top->worker_count; i++) {
        const struct lg_source *known = &top->workers[i]->snap->source;
        if (known->dev == source->dev && known->ino == source->ino) {
            lg_source_close(source);
            return 0;
        }
    }
    struct lg_worker **larger =
        realloc(top->workers, (top->worker_count + 1) * sizeof(*top->workers));
    struct lg_worker *w = larger != NULL ? calloc(1, sizeof(*w)) : NULL;
    int err = -ENOMEM;
    top->workers = larger != NULL ? larger : top->workers;
    if (w == NULL || (w->private = calloc(1, sizeof(*w->private))) == NULL) {
        lg_source_close(source);
        goto failed;
    }
    err = top->private->unmapped ? lg_snapshot_open_unmapped(source, &w->snap)
                                 : lg_snapshot_open(source, &w->snap);
    if (err != 0) {
        goto failed;
    }
    w->private->file_count = w->snap->text_slots;
    w->private->stack_count = w->snap->stack_count;
    w->private->files = calloc(w->private->file_count + 1, sizeof(*w->private->files));
    w->private->stacks = calloc(w->private->stack_count + 1, sizeof(*w->private->stacks));
    w->private->stack_hash = calloc(w->private->stack_count + 1, sizeof(uint64_t));
    w->private->deltas = lg_deltas_new(lg_top_clock(top));
    if (w->private->files == NULL || w->private->stacks == NULL || w->private->stack_hash == NULL ||
        w->private->deltas == NULL) {
        err = -ENOMEM;
        goto failed;
    }
    w->snap->deltas = w->private->deltas;
    w->private->was_alive = w->snap->live;
    describe(w);
    top->workers[top->worker_count++] = w;
    common_parent(top);
    return 0;
failed:
    if (w != NULL) {
        free_worker(w);
    }
    lg_problem_from_code(problem, pid, subject, err, NULL, 0, NULL);
    return err;
}

void
lg_top_follow(struct lg_top *top, const char *dir, const char *name, bool all)
{
    top->private->follow = true;
    top->private->follow_dir = dir;
    top->private->follow_name = name;
    top->private->follow_all = all;
}

void
lg_top_refresh(struct lg_top *top)
{
    top->now_ns = lg_top_clock(top);
    top->ticks++;
    top->lost_events = 0;
    for (size_t i = 0; i < top->worker_count; i++) {
        struct lg_worker *w = top->workers[i];
        if (top->ticks > 1) {
            (void)lg_snapshot_refresh(w->snap);     /* cut: the state says so */
        }
        if (w->snap->live) {
            lg_deltas_tick(w->private->deltas, top->now_ns);
        }
        compute(top, w, i);
        top->lost_events += w->lost_events;
    }
    if (top->private->follow && top->now_ns - top->private->last_scan_ns >= SCAN_NS) {
        top->private->last_scan_ns = top->now_ns;
        look_for_new(top);
    }
    top->now_real_ns = 0;
    for (size_t i = 0; i < top->worker_count && top->private->frozen; i++) {
        top->now_real_ns = lg_worker_real(top->workers[i], top->now_ns);
        break;
    }
    if (top->now_real_ns == 0) {
        struct timespec ts;
        clock_gettime(CLOCK_REALTIME, &ts);
        top->now_real_ns = lg_timespec_ns(&ts);
    }
}

bool
lg_top_refresh_banner(struct lg_top *top)
{
    bool changed = false;
    top->now_ns = lg_top_clock(top);
    for (size_t i = 0; i < top->worker_count; i++) {
        struct lg_worker *w = top->workers[i];
        uint64_t before = w->banner.changed;
        uint64_t ns = w->banner.ns;
        if (!w->snap->live) {
            continue;
        }
        (void)lg_snapshot_refresh_loops(w->snap);
        set_times(top, w);
        set_state(w);
        set_loops(top, w);
        lg_worker_judge(top, w, i);
        changed = changed || before != w->banner.changed || ns != w->banner.ns;
    }
    return changed;
}

void
lg_top_zero(struct lg_top *top, bool on)
{
    for (size_t i = 0; i < top->worker_count; i++) {
        struct lg_worker *w = top->workers[i];
        free_baseline(w->private->baseline);
        w->private->baseline = on ? take_baseline(w) : NULL;
    }
}

uint64_t
lg_top_zeroed_real_ns(const struct lg_top *top)
{
    for (size_t i = 0; i < top->worker_count; i++) {
        if (top->workers[i]->private->baseline != NULL) {
            return top->workers[i]->private->baseline->real_ns;
        }
    }
    return 0;
}

const struct lg_banner *
lg_top_banner(const struct lg_top *top)
{
    /* What a reader must know first stands first. */
    static const int rank[] = {
        [LG_BANNER_NONE] = 0,         [LG_BANNER_EXITED] = 1,  [LG_BANNER_ENDED] = 2,
        [LG_BANNER_CUT] = 3,          [LG_BANNER_DIED] = 4,    [LG_BANNER_DIED_BLOCKED] = 5,
        [LG_BANNER_NO_HEARTBEAT] = 6, [LG_BANNER_BLOCKED] = 7,
    };
    static const struct lg_banner none = {.kind = LG_BANNER_NONE};
    const struct lg_banner *worst = &none;
    for (size_t i = 0; i < top->worker_count; i++) {
        const struct lg_banner *b = &top->workers[i]->banner;
        /* Of several workers, the old dead are no news. */
        bool old = top->worker_count > 1 && top->workers[i]->post_mortem &&
                   !top->workers[i]->ended_while_watched;
        if (!old &&
            (rank[b->kind] > rank[worst->kind] || (b->kind == worst->kind && b->ns > worst->ns))) {
            worst = b;
        }
    }
    return worst;
}

void
lg_top_sum(const struct lg_top *top, size_t worker, enum lg_window window,
           struct lg_window_sum *out)
{
    *out = (struct lg_window_sum){.lag = {.source = LG_QUANTILE_NONE,
                                          .p50_us = LG_NONE,
                                          .p90_us = LG_NONE,
                                          .p99_us = LG_NONE,
                                          .p999_us = LG_NONE}};
    if (worker != LG_ALL_WORKERS) {
        *out = top->workers[worker]->sum[window];
        return;
    }
    double rate = 0;
    double busy = 0;
    for (size_t i = 0; i < top->worker_count; i++) {
        const struct lg_worker *w = top->workers[i];
        const struct lg_window_sum *s = &w->sum[window];
        if (w->post_mortem) {
            continue;
        }
        out->requests += s->requests;
        out->busy_ns = lg_plus(out->busy_ns, s->busy_ns);
        out->blocked_ns = lg_plus(out->blocked_ns, s->blocked_ns);
        out->blocks += s->blocks;
        out->covered_ns = s->covered_ns > out->covered_ns ? s->covered_ns : out->covered_ns;
        out->max_lag_ns = s->max_lag_ns > out->max_lag_ns ? s->max_lag_ns : out->max_lag_ns;
        rate += s->requests_per_s > 0 ? s->requests_per_s : 0;
        busy = s->busy_share > busy ? s->busy_share : busy;
    }
    out->requests_per_s = rate;
    out->busy_share = busy;
    out->blocked_share =
        out->covered_ns > 0 ? (double)out->blocked_ns / (double)out->covered_ns : -1;
}

/* ---- shared with the other sources ------------------------------------- */

uint64_t
lg_top_clock(const struct lg_top *top)
{
    return top->private->frozen ? top->private->frozen_ns : lg_now_ns();
}

uint64_t
lg_worker_real(const struct lg_worker *w, uint64_t mono_ns)
{
    if (mono_ns == 0 || mono_ns == LG_NONE) {
        return 0;
    }
    int64_t real = (int64_t)mono_ns + w->private->real_offset_ns;
    return real > 0 ? (uint64_t)real : 0;
}

void
lg_quantiles_of(const struct lg_hist *hist, enum lg_quantile_source source,
                struct lg_quantiles *out)
{
    bool known = hist != NULL && source != LG_QUANTILE_NONE;
    out->source = known ? source : LG_QUANTILE_NONE;
    out->p50_us = known ? lg_hist_quantile_us(hist, 0.5) : LG_NONE;
    out->p90_us = known ? lg_hist_quantile_us(hist, 0.9) : LG_NONE;
    out->p99_us = known ? lg_hist_quantile_us(hist, 0.99) : LG_NONE;
    out->p999_us = known ? lg_hist_quantile_us(hist, 0.999) : LG_NONE;
}

/* The number of the first cell that belongs to the window. */
uint64_t
lg_window_first_cell(const struct lg_worker *w, enum lg_window window, uint64_t cell_s)
{
    uint64_t now = w->private->base_ns / LG_NS_PER_S / cell_s;
    uint64_t cells = lg_window_ns(window) / LG_NS_PER_S / cell_s;
    uint64_t first = lg_less(now + 1, cells);
    const struct lg_baseline *zero = w->private->baseline;
    if (zero != NULL && zero->at_ns / LG_NS_PER_S / cell_s + 1 > first) {
        first = zero->at_ns / LG_NS_PER_S / cell_s + 1;
    }
    return first;
}

/* How much time lies between the window's first cell and now. */
uint64_t
lg_window_covered(const struct lg_worker *w, enum lg_window window, uint64_t born_ns,
                  uint64_t cell_s)
{
    const struct lg_baseline *zero = w->private->baseline;
    uint64_t from = 0;
    if (window != LG_WINDOW_TOTAL) {
        from = lg_window_first_cell(w, window, cell_s) * cell_s * LG_NS_PER_S;
    }
    from = born_ns > from ? born_ns : from;
    from = zero != NULL && zero->at_ns > from ? zero->at_ns : from;
    return lg_less(w->private->base_ns, from);
}

bool
lg_worker_in_block(const struct lg_worker *w)
{
    return w->blocked.active ||
           (w->blocked.at_death && w->blocked.for_ns > w->blocked.threshold_ns);
}

/* ---- one worker -------------------------------------------------------- */

/* What never changes. */
static void
describe(struct lg_worker *w)
{
    const struct lg_proc_info *proc = &w->snap->source.geo.proc;
    struct lg_worker_private *p = w->private;
#define CLEAN(from, to) lg_text_clean(proc->from, sizeof(proc->from), p->to, sizeof(p->to))
    CLEAN(app, app);
    CLEAN(server, server);
    CLEAN(agent_version, agent);
    CLEAN(cwd, cwd);
    CLEAN(prefix, prefix);
#undef CLEAN
    if (p->app[0] == '\0') {
        lg_text_clean(proc->argv, sizeof(proc->argv), p->app, sizeof(p->app));
    }
    w->pid = w->snap->source.pid != 0 ? w->snap->source.pid : (pid_t)proc->pid;
    w->label = w->snap->source.label;
    w->slot = proc->worker_slot;
    w->app = p->app;
    w->server = p->server;
    w->agent = p->agent;
    w->cwd = p->cwd;
    w->prefix = p->prefix;
    w->ppid = (pid_t)proc->ppid;
    lg_format_python(proc->python_version_hex, w->python, sizeof(w->python));
    w->started_real_ns = proc->start_real_ns;
    uint64_t own_time = 0;
    p->foreign_time = lg_proc_read_ns(0, "time", &own_time) == 0 && own_time != 0 &&
                      proc->ns_time != 0 && own_time != proc->ns_time;
}

static void
compute(struct lg_top *top, struct lg_worker *w, size_t index)
{
    if (w->snap->live && w->snap->source.life == LG_ALIVE) {
        w->snap->source.life =
            lg_liveness(&w->snap->source.geo, w->snap->source.fd, w->snap->source.pid);
        if (w->snap->source.life != LG_ALIVE && w->private->was_alive && top->ticks > 1) {
            w->ended_while_watched = true;
            /* Whatever it wrote between our copy and its end. */
            (void)lg_snapshot_refresh(w->snap);
        }
    }
    set_times(top, w);
    set_state(w);
    set_facts(w);
    set_loops(top, w);
    lg_worker_judge(top, w, index);
    for (uint32_t i = 0; i < w->loop_count; i++) {
        set_loop_sums(w, i);
    }
    set_lag_quantiles(w);
    merge_sums(w);
    set_series(w);
    set_pool(w);
    set_words(top, w);
}

static void
set_times(struct lg_top *top, struct lg_worker *w)
{
    struct lg_worker_private *p = w->private;
    const struct lg_snapshot *snap = w->snap;
    const struct lg_proc_info *proc = &snap->source.geo.proc;
    w->post_mortem = snap->source.life != LG_ALIVE;
    uint64_t mono = snap->anchor.mono_ns != 0 ? snap->anchor.mono_ns : proc->start_mono_ns;
    uint64_t real = snap->anchor.mono_ns != 0 ? snap->anchor.real_ns : proc->start_real_ns;
    p->real_offset_ns = (int64_t)real - (int64_t)mono;
    uint64_t sign = last_sign(w);
    p->base_ns = w->post_mortem || p->foreign_time ? sign : top->now_ns;
    if (p->base_ns < proc->start_mono_ns) {
        p->base_ns = proc->start_mono_ns;
    }
    w->up_ns = p->base_ns - proc->start_mono_ns;
    w->heartbeat_age_ns = LG_NONE;
    if (sign != 0 && !p->foreign_time && !w->post_mortem) {
        w->heartbeat_age_ns = lg_less(top->now_ns, sign);
    }
    w->heartbeat_real_ns = lg_worker_real(w, sign);
    w->ended_real_ns = w->post_mortem ? w->heartbeat_real_ns : 0;
}

/* The last word of the watchdog: a heartbeat, or the anchor. */
static uint64_t
last_sign(const struct lg_worker *w)
{
    const struct lg_snapshot *snap = w->snap;
    uint64_t start = snap->source.geo.proc.start_mono_ns;
    uint64_t sign = 0;
    for (uint32_t i = 0; i < snap->loop_count; i++) {
        uint64_t beat = snap->loops[i].heartbeat_ns;
        if (beat > sign && lg_less(beat, start) < SANE_NS) {
            sign = beat;
        }
    }
    if (snap->anchor.mono_ns > sign && lg_less(snap->anchor.mono_ns, start) < SANE_NS) {
        sign = snap->anchor.mono_ns;
    }
    return sign;
}

static void
set_state(struct lg_worker *w)
{
    struct lg_proc_stat stat;
    bool clean_end = w->snap->state == LG_STATE_EXITED || w->snap->state == LG_STATE_EXITING;
    w->process_state = 0;
    if (!w->post_mortem && w->snap->source.pid != 0 &&
        lg_proc_read_stat(w->snap->source.pid, &stat) == 0) {
        w->process_state = stat.state;
    }
    bool open_loop = false;
    for (uint32_t i = 0; i < w->snap->loop_count; i++) {
        uint64_t state = LG_LOOP_STATE(w->snap->loops[i].state);
        open_loop = open_loop || state == LG_LOOP_IDLE || state == LG_LOOP_STEP;
    }
    if (w->snap->cut) {
        w->state = LG_WORKER_CUT;
    }
    else if (w->post_mortem) {
        w->state = clean_end ? LG_WORKER_EXITED : LG_WORKER_DEAD;
    }
    else if (w->snap->state == LG_STATE_OFF) {
        w->state = LG_WORKER_OFF;
    }
    else if (open_loop && w->heartbeat_age_ns != LG_NONE &&
             (w->heartbeat_age_ns > LG_STALE_NS || w->process_state == 'T')) {
        w->state = LG_WORKER_STALE;
    }
    else {
        w->state = LG_WORKER_LIVE;
    }
}

static void
set_loops(struct lg_top *top, struct lg_worker *w)
{
    bool kinds[3] = {false};
    w->loop_count = w->snap->loop_count;
    w->lag_now_ns = w->loop_count > 0 ? 0 : LG_NONE;
    w->lag_high = false;
    w->max_lag_ns = w->loop_count > 0 ? 0 : LG_NONE;
    w->max_lag_real_ns = 0;
    w->open_requests = w->loop_count > 0 ? 0 : LG_NONE;
    w->tasks = w->loop_count > 0 ? 0 : LG_NONE;
    w->threshold_ns = w->snap->source.geo.config.threshold_ns;
    bool first_open = true;
    for (uint32_t i = 0; i < w->loop_count; i++) {
        set_loop(top, w, i);
        const struct lg_loop_view *loop = &w->loops[i];
        kinds[loop->kind < LG_LOOP_OTHER ? loop->kind : LG_LOOP_OTHER] = true;
        if (loop->max_lag_ns > w->max_lag_ns) {
            w->max_lag_ns = loop->max_lag_ns;
            w->max_lag_real_ns = loop->max_lag_real_ns;
        }
        if (loop->closed) {
            continue;
        }
        if (first_open && loop->threshold_ns != 0) {
            w->threshold_ns = loop->threshold_ns;
            first_open = false;
        }
        if (loop->lag_now_ns == LG_NONE) {
            w->lag_now_ns = LG_NONE;
        }
        else if (w->lag_now_ns != LG_NONE && loop->lag_now_ns > w->lag_now_ns) {
            w->lag_now_ns = loop->lag_now_ns;
        }
        w->lag_high = w->lag_high || (loop->lag_now_ns != LG_NONE && loop->threshold_ns != 0 &&
                                      loop->lag_now_ns > loop->threshold_ns);
        w->open_requests = lg_plus(w->open_requests, loop->open_requests);
        w->tasks = w->tasks == LG_NONE || loop->tasks == LG_NONE ? LG_NONE
                                                                 : lg_plus(w->tasks, loop->tasks);
    }
    snprintf(w->loop_kinds, sizeof(w->loop_kinds), "%s%s%s%s%s",
             kinds[LG_LOOP_ASYNCIO] ? "asyncio" : "",
             kinds[LG_LOOP_ASYNCIO] && kinds[LG_LOOP_UVLOOP] ? "/" : "",
             kinds[LG_LOOP_UVLOOP] ? "uvloop" : "",
             kinds[LG_LOOP_OTHER] && (kinds[0] || kinds[1]) ? "/" : "",
             kinds[LG_LOOP_OTHER] ? "other" : "");
}

static void
set_loop(struct lg_top *top, struct lg_worker *w, uint32_t index)
{
    const struct lg_loop_entry *e = &w->snap->loops[index];
    struct lg_loop_view *out = &w->loops[index];
    uint64_t state = LG_LOOP_STATE(e->state);
    /* Windows are filled by set_loop_sums(), the rest anew at each look. */
    out->index = index;
    out->kind = LG_LO(e->kind_thread_name);
    out->closed = state == LG_LOOP_CLOSED || e->closed_ns != 0;
    out->thread = lg_snapshot_text(w->snap, LG_HI(e->kind_thread_name));
    out->tid = LG_HI(e->request_tid);
    out->heartbeat_age_ns = w->post_mortem || w->private->foreign_time || e->heartbeat_ns == 0
                                ? LG_NONE
                                : lg_less(top->now_ns, e->heartbeat_ns);
    out->threshold_ns = e->threshold_ns;
    out->tasks = e->tasks;
    out->open_requests = e->open_requests;
    out->ready_length = e->ready_length;
    out->iterations = e->iterations;
    out->steps = e->steps;
    out->throttled = e->throttled;
    out->gc_pauses = e->gc_pauses;
    memcpy(out->parts_ns, e->parts_ns, sizeof(out->parts_ns));
    out->max_lag_ns = e->max_lag_ns;
    out->max_lag_real_ns = lg_worker_real(w, e->max_lag_at_ns);
    bool awake = e->awake_since_ns != 0 && e->awake_since_ns <= w->private->base_ns;
    uint64_t lag = awake ? w->private->base_ns - e->awake_since_ns : e->last_lag_ns;
    out->lag_now_ns = out->closed || w->state == LG_WORKER_STALE ? LG_NONE : lag;
    if (awake && !out->closed && lag > out->max_lag_ns && w->state != LG_WORKER_STALE) {
        out->max_lag_ns = lag;
        out->max_lag_real_ns = lg_worker_real(w, w->private->base_ns);
    }
}

static void
set_loop_sums(struct lg_worker *w, uint32_t index)
{
    const struct lg_loop_entry *e = &w->snap->loops[index];
    const struct lg_baseline *zero = w->private->baseline;
    const struct lg_loop_entry none = {0};
    const struct lg_loop_entry *from = zero != NULL ? &zero->loops[index] : &none;
    for (int i = 0; i < LG_WINDOW_COUNT; i++) {
        struct lg_window_sum *sum = &w->loops[index].sum[i];
        *sum = (struct lg_window_sum){0};
        uint64_t born = e->created_ns != 0 ? e->created_ns : w->snap->source.geo.proc.start_mono_ns;
        sum->covered_ns = lg_window_covered(w, (enum lg_window)i, born, 1);
        if (i == LG_WINDOW_TOTAL) {
            sum->requests = lg_less(e->requests, from->requests);
            sum->busy_ns = lg_less(e->sum_lag_ns, from->sum_lag_ns);
            sum->blocked_ns = lg_less(e->blocked_ns, from->blocked_ns);
            sum->blocks = lg_less(e->blocks, from->blocks);
            sum->max_lag_ns = e->max_lag_ns;
        }
        else if (index < w->snap->loop_history_count) {
            add_cells(w, index, (enum lg_window)i, sum);
        }
        else {
            *sum = (struct lg_window_sum){.covered_ns = 0,
                                          .requests = LG_NONE,
                                          .busy_ns = LG_NONE,
                                          .blocked_ns = LG_NONE,
                                          .blocks = LG_NONE,
                                          .max_lag_ns = LG_NONE};
        }
        add_block(w, index, sum);
        finish_sum(sum);
    }
}

static void
add_cells(const struct lg_worker *w, uint32_t loop, enum lg_window window,
          struct lg_window_sum *out)
{
    const struct lg_loop_cell *cells = &w->snap->loop_history[(size_t)loop * LG_LOOP_CELLS];
    uint64_t last = w->private->base_ns / LG_NS_PER_S;
    uint64_t first = lg_window_first_cell(w, window, 1);
    for (uint32_t i = 0; i < LG_LOOP_CELLS; i++) {
        const struct lg_loop_cell *c = &cells[i];
        uint64_t second = LG_LO(c->second_iterations);
        if (second < first || second > last || second % LG_LOOP_CELLS != i || second == 0) {
            continue;
        }
        out->requests += LG_LO(c->requests_open);
        out->busy_ns += lg_us_ns(LG_LO(c->busy_us_max_lag_us));
        out->blocked_ns += lg_us_ns(LG_LO(c->blocked_us_blocks));
        out->blocks += LG_HI(c->blocked_us_blocks);
        uint64_t lag = lg_us_ns(LG_HI(c->busy_us_max_lag_us));
        out->max_lag_ns = lag > out->max_lag_ns ? lag : out->max_lag_ns;
    }
}

/* What goes on right now stands in no cell and no counter yet. */
static void
add_block(const struct lg_worker *w, uint32_t loop, struct lg_window_sum *out)
{
    const struct lg_loop_entry *e = &w->snap->loops[loop];
    uint64_t base = w->private->base_ns;
    if (out->busy_ns == LG_NONE || w->state == LG_WORKER_STALE || w->loops[loop].closed) {
        return;
    }
    if (e->awake_since_ns != 0 && e->awake_since_ns <= base) {
        uint64_t awake = base - e->awake_since_ns;
        out->max_lag_ns = awake > out->max_lag_ns ? awake : out->max_lag_ns;
        out->busy_ns = lg_plus(out->busy_ns, awake < out->covered_ns ? awake : out->covered_ns);
    }
    if (lg_worker_in_block(w) && w->blocked.loop == loop) {
        uint64_t ns = w->blocked.for_ns;
        out->blocked_ns = lg_plus(out->blocked_ns, ns < out->covered_ns ? ns : out->covered_ns);
        out->blocks++;
    }
}

static void
finish_sum(struct lg_window_sum *sum)
{
    double covered = (double)sum->covered_ns / (double)LG_NS_PER_S;
    bool known = sum->covered_ns >= LG_NS_PER_MS && sum->busy_ns != LG_NONE;
    sum->requests_per_s = known ? (double)sum->requests / covered : -1;
    sum->busy_share = known ? (double)sum->busy_ns / (double)sum->covered_ns : -1;
    sum->blocked_share = known ? (double)sum->blocked_ns / (double)sum->covered_ns : -1;
    sum->busy_share = sum->busy_share > 1 ? 1 : sum->busy_share;
    sum->blocked_share = sum->blocked_share > 1 ? 1 : sum->blocked_share;
    lg_quantiles_of(NULL, LG_QUANTILE_NONE, &sum->lag);
}

struct lag_hists {
    uint32_t first;                     /* index in HISTS of loop 0 */
    uint32_t count;
    struct lg_hist hist[LG_VIEW_LOOPS];
};

static void
set_lag_quantiles(struct lg_worker *w)
{
    const struct lg_snapshot *snap = w->snap;
    const struct lg_baseline *zero = w->private->baseline;
    struct lag_hists lag = {.first = LG_HIST_LAG(snap->endpoint_slots, 0),
                            .count = (uint32_t)w->loop_count};
    for (int i = 0; i < LG_WINDOW_COUNT; i++) {
        bool total = i == LG_WINDOW_TOTAL;
        uint64_t since = lg_less(w->private->base_ns, lg_window_ns((enum lg_window)i));
        if (!total && zero != NULL && zero->at_ns > since) {
            since = zero->at_ns;
        }
        memset(lag.hist, 0, sizeof(lag.hist));
        lg_quantiles_of(NULL, LG_QUANTILE_NONE, &w->sum[i].lag);
        if (!total && (!snap->live || !lg_deltas_cover(w->private->deltas, since))) {
            continue;
        }
        if (!total) {
            lg_deltas_walk(w->private->deltas, since, take_lag, &lag);
        }
        struct lg_hist all = {0};
        for (uint32_t k = 0; k < lag.count; k++) {
            if (total && lag.first + k < snap->hist_count) {
                lag.hist[k] = snap->hists[lag.first + k];
                if (zero != NULL && lag.first + k < zero->hist_count) {
                    lg_hist_subtract(&snap->hists[lag.first + k], &zero->hists[lag.first + k],
                                     &lag.hist[k]);
                }
            }
            lg_quantiles_of(&lag.hist[k], total ? LG_QUANTILE_TOTAL : LG_QUANTILE_HISTOGRAM,
                            &w->loops[k].sum[i].lag);
            lg_hist_merge(&all, &lag.hist[k]);
        }
        lg_quantiles_of(&all, total ? LG_QUANTILE_TOTAL : LG_QUANTILE_HISTOGRAM, &w->sum[i].lag);
    }
}

static void
take_lag(void *arg, uint32_t hist, uint32_t bucket, uint64_t count)
{
    struct lag_hists *lag = arg;
    if (hist >= lag->first && hist - lag->first < lag->count && bucket < LG_HIST_BUCKETS) {
        lag->hist[hist - lag->first].bucket[bucket] += count;
    }
}

/* A worker's sums: its loops together. Shares are of the busiest loop. */
static void
merge_sums(struct lg_worker *w)
{
    for (int i = 0; i < LG_WINDOW_COUNT; i++) {
        struct lg_quantiles lag = w->sum[i].lag;
        struct lg_window_sum sum = {.requests_per_s = -1, .busy_share = -1, .blocked_share = -1};
        bool total = i == LG_WINDOW_TOTAL;
        bool known = w->loop_count > 0;
        for (size_t k = 0; k < w->loop_count; k++) {
            const struct lg_window_sum *s = &w->loops[k].sum[i];
            if (s->busy_ns == LG_NONE) {
                known = false;
                continue;
            }
            sum.requests += s->requests;
            sum.busy_ns = lg_plus(sum.busy_ns, s->busy_ns);
            sum.blocked_ns = lg_plus(sum.blocked_ns, s->blocked_ns);
            sum.blocks += s->blocks;
            sum.covered_ns = s->covered_ns > sum.covered_ns ? s->covered_ns : sum.covered_ns;
            sum.max_lag_ns = s->max_lag_ns > sum.max_lag_ns ? s->max_lag_ns : sum.max_lag_ns;
            if (s->requests_per_s >= 0) {
                sum.requests_per_s =
                    (sum.requests_per_s > 0 ? sum.requests_per_s : 0) + s->requests_per_s;
            }
            sum.busy_share = s->busy_share > sum.busy_share ? s->busy_share : sum.busy_share;
            sum.blocked_share =
                s->blocked_share > sum.blocked_share ? s->blocked_share : sum.blocked_share;
        }
        if (!known) {
            sum.requests = sum.busy_ns = sum.blocked_ns = sum.blocks = LG_NONE;
            sum.max_lag_ns = LG_NONE;
        }
        if (w->state == LG_WORKER_STALE && !total) {
            sum.requests_per_s = -1;    /* "?": nobody counted meanwhile */
            sum.busy_share = -1;
        }
        sum.lag = lag;
        if (w->loop_count == 0 || (!total && !w->snap->live)) {
            lg_quantiles_of(NULL, LG_QUANTILE_NONE, &sum.lag);
        }
        w->sum[i] = sum;
    }
}

/* Worst lag of each of the last seconds. A block in progress is drawn as it
 * grew, second by second. */
static void
set_series(struct lg_worker *w)
{
    const struct lg_snapshot *snap = w->snap;
    uint64_t last = w->private->base_ns / LG_NS_PER_S;
    uint64_t born = snap->source.geo.proc.start_mono_ns / LG_NS_PER_S;
    bool history = snap->loop_history_count > 0 && w->loop_count > 0;
    w->series_end_real_ns = lg_worker_real(w, w->private->base_ns);
    for (uint64_t k = 0; k < LG_SERIES; k++) {
        uint64_t second = last + 1 + k - LG_SERIES;
        bool there = last + 1 + k >= LG_SERIES && second >= born;
        w->series_lag_ns[k] = history && there ? 0 : LG_NONE;
    }
    for (uint32_t l = 0; history && l < w->loop_count && l < snap->loop_history_count; l++) {
        const struct lg_loop_cell *cells = &snap->loop_history[(size_t)l * LG_LOOP_CELLS];
        const struct lg_loop_entry *e = &snap->loops[l];
        for (uint64_t k = 0; k < LG_SERIES; k++) {
            if (w->series_lag_ns[k] == LG_NONE) {
                continue;
            }
            uint64_t second = last + 1 + k - LG_SERIES;
            const struct lg_loop_cell *c = &cells[second % LG_LOOP_CELLS];
            uint64_t lag = LG_LO(c->second_iterations) == (uint32_t)second
                               ? lg_us_ns(LG_HI(c->busy_us_max_lag_us))
                               : 0;
            uint64_t end = k + 1 == LG_SERIES ? w->private->base_ns : (second + 1) * LG_NS_PER_S;
            if (e->awake_since_ns != 0 && !w->loops[l].closed && e->awake_since_ns < end &&
                w->state != LG_WORKER_STALE && end - e->awake_since_ns > lag) {
                lag = end - e->awake_since_ns;
            }
            if (lag > w->series_lag_ns[k]) {
                w->series_lag_ns[k] = lag;
            }
        }
    }
}

static void
set_facts(struct lg_worker *w)
{
    const struct lg_snapshot *snap = w->snap;
    const struct lg_geometry *geo = &snap->source.geo;
    uint64_t torn = 0;
    for (size_t i = 0; i < LG_RINGS; i++) {
        torn += snap->rings[i].cursor.torn;
    }
    w->lost_events = snap->records_lost + snap->stalls_lost + torn;
    if ((snap->missing & 1u << LG_SEC_SELF) == 0) {
        w->lost_events = lg_plus(w->lost_events, snap->self.ring_unavailable);
    }
    const struct {
        uint64_t used;
        uint32_t kind;
    } fills[] = {
        {snap->tables.strings_used, LG_SEC_STRINGS},
        {snap->tables.endpoints_used, LG_SEC_ENDPOINTS},
        {snap->tables.stacks_used, LG_SEC_STACKS},
        {snap->tables.frames_used, LG_SEC_FRAMES},
    };
    w->fill = (snap->missing & 1u << LG_SEC_TABLES) != 0 ? -1 : 0;
    for (size_t i = 0; i < sizeof(fills) / sizeof(fills[0]) && w->fill >= 0; i++) {
        uint32_t room = geo->section[fills[i].kind].count;
        double fill = room > 0 ? (double)fills[i].used / room : 0;
        w->fill = fill > w->fill ? fill : w->fill;
    }
    w->feature_count = 0;
    size_t most = sizeof(w->features) / sizeof(w->features[0]);
    for (uint32_t i = 0; i < snap->feature_count && w->feature_count < most; i++) {
        const struct lg_feature *f = &snap->features[i];
        if (f->state != LG_FEATURE_ON && f->state != LG_FEATURE_OFF) {
            continue;
        }
        struct lg_feature_view *v = &w->features[w->feature_count++];
        lg_text_clean(f->name, sizeof(f->name), v->name, sizeof(v->name));
        lg_text_clean(f->reason, sizeof(f->reason), v->why, sizeof(v->why));
        v->on = f->state == LG_FEATURE_ON;
    }
}

static void
set_pool(struct lg_worker *w)
{
    struct lg_snapshot *snap = w->snap;
    const struct lg_pool *p = &snap->pool;
    struct lg_pool_view *out = &w->pool;
    *out = (struct lg_pool_view){.full_for_ns = LG_NONE};
    lg_quantiles_of(NULL, LG_QUANTILE_NONE, &out->wait);
    if ((snap->missing & 1u << LG_SEC_POOL) != 0 || p->limit == 0) {
        return;
    }
    out->seen = true;
    out->limit = p->limit;
    out->busy = p->busy;
    out->waiting = p->waiting;
    out->high_water = p->high_water;
    out->waiting_high_water = p->waiting_high_water;
    out->times_full = p->times_full;
    out->submitted = p->submitted;
    out->finished = p->finished;
    out->wait_sum_ns = p->wait_sum_ns;
    out->wait_max_ns = p->wait_max_ns;
    out->run_sum_ns = p->run_sum_ns;
    out->run_max_ns = p->run_max_ns;
    if (p->full_since_ns != 0) {
        out->full_for_ns = lg_less(w->private->base_ns, p->full_since_ns);
    }
    uint32_t index = LG_HIST_POOL_WAIT(snap->endpoint_slots, snap->loop_slots);
    if (index < snap->hist_count) {
        lg_quantiles_of(&snap->hists[index], LG_QUANTILE_TOTAL, &out->wait);
    }
    for (size_t i = 0; i < LG_STUCK_THREADS; i++) {
        if (p->stuck[i].tid_endpoint == 0) {
            continue;
        }
        out->stuck[out->stuck_count].tid = LG_LO(p->stuck[i].tid_endpoint);
        out->stuck[out->stuck_count].key = lg_worker_key(w, LG_HI(p->stuck[i].tid_endpoint));
        out->stuck[out->stuck_count].for_ns = lg_less(w->private->base_ns, p->stuck[i].since_ns);
        const struct lg_stack_view *stack = p->stuck[i].stack <= UINT32_MAX
                                                ? lg_worker_stack(w, (uint32_t)p->stuck[i].stack)
                                                : NULL;
        if (stack != NULL) {
            out->stuck[out->stuck_count].stack = *stack;
        }
        out->stuck_count++;
    }
}

static void
set_words(struct lg_top *top, struct lg_worker *w)
{
    char when[LG_TEXT];
    char age[LG_TEXT];
    (void)top;
    w->note[0] = '\0';
    w->message[0] = '\0';
    lg_format_clock(w->ended_real_ns, 0, false, when, sizeof(when));
    lg_format_age_short(w->heartbeat_age_ns, age, sizeof(age));
    switch (w->state) {
    case LG_WORKER_EXITED:
        snprintf(w->note, sizeof(w->note), "exited %s", when);
        break;
    case LG_WORKER_DEAD:
        snprintf(w->note, sizeof(w->note), "%s %s",
                 lg_worker_in_block(w) ? "died while blocked" : "died", when);
        break;
    case LG_WORKER_CUT:
        snprintf(w->note, sizeof(w->note), "its file became shorter");
        break;
    case LG_WORKER_OFF:
        snprintf(w->note, sizeof(w->note), "agent switched itself off");
        break;
    case LG_WORKER_STALE:
        snprintf(w->note, sizeof(w->note), "no heartbeat %s", age);
        break;
    default:
        if (w->blocked.active) {
            snprintf(w->note, sizeof(w->note), "blocked now");
        }
        break;
    }
    if (w->state == LG_WORKER_STALE) {
        lg_format_duration_wide(w->heartbeat_age_ns, age, sizeof(age));
        snprintf(w->message, sizeof(w->message), "%s: heartbeat %s old. The process exists and %s.",
                 w->label, age,
                 w->process_state == 'T' || w->process_state == 't' ? "is stopped (state T)"
                 : w->process_state == 'D' ? "is in uninterruptible sleep (D)"
                                           : "runs, but the agent thread is silent");
    }
    else if (w->state == LG_WORKER_OFF) {
        char reason[160];
        const struct lg_proc_info *proc = &w->snap->source.geo.proc;
        lg_text_clean(proc->off_reason, sizeof(proc->off_reason), reason, sizeof(reason));
        snprintf(w->message, sizeof(w->message), "%s: the agent switched itself off%s%s", w->label,
                 reason[0] != '\0' ? ": " : "", reason);
    }
    else if (w->private->foreign_time) {
        snprintf(w->message, sizeof(w->message),
                 "%s: runs in another time namespace; ages count from its heartbeat", w->label);
    }
    else if (w->snap->unclean_rows > 0) {
        snprintf(w->message, sizeof(w->message), "%llu row%s could not be read cleanly this time",
                 (unsigned long long)w->snap->unclean_rows, w->snap->unclean_rows == 1 ? "" : "s");
    }
}

/* ---- new workers ------------------------------------------------------- */

static void
look_for_new(struct lg_top *top)
{
    struct lg_top_private *p = top->private;
    struct lg_sources found = {0};
    struct lg_problems ignored = {0};
    lg_find_dir(p->follow_dir != NULL ? p->follow_dir : "/dev/shm", &found, &ignored);
    if (p->follow_name != NULL) {
        lg_find_keep_name(&found, p->follow_name);
    }
    for (size_t i = 0; i < found.count; i++) {
        struct lg_source *source = &found.list[i];
        struct lg_problem problem;
        size_t before = top->worker_count;
        if (source->life != LG_ALIVE || !belongs(top, source) ||
            lg_top_add(top, source, &problem) != 0 || top->worker_count == before) {
            continue;
        }
        struct lg_worker *new = top->workers[before];
        compute(top, new, before);
        for (size_t k = 0; k < before; k++) {
            struct lg_worker *old = top->workers[k];
            if (old->ended_while_watched &&
                old->ppid == new->ppid &&strcmp(old->app, new->app) == 0) {
                snprintf(old->message, sizeof(old->message),
                         "Worker %s was replaced by %s; ] to watch it", old->label, new->label);
            }
        }
    }
    lg_sources_free(&found);
    lg_problems_free(&ignored);
}

static bool
belongs(const struct lg_top *top, const struct lg_source *source)
{
    const struct lg_proc_info *a = &source->geo.proc;
    if (top->private->follow_all || top->private->follow_name != NULL) {
        return true;
    }
    for (size_t i = 0; i < top->worker_count; i++) {
        const struct lg_proc_info *b = &top->workers[i]->snap->source.geo.proc;
        if (a->uid == b->uid && a->ppid == b->ppid && strcmp(a->app, b->app) == 0) {
            return true;
        }
    }
    return false;
}

static void
common_parent(struct lg_top *top)
{
    top->parent = top->worker_count > 0 ? top->workers[0]->ppid : 0;
    for (size_t i = 1; i < top->worker_count; i++) {
        if (top->workers[i]->ppid != top->parent) {
            top->parent = 0;
        }
    }
}

/* ---- memory ------------------------------------------------------------ */

static void
free_worker(struct lg_worker *w)
{
    struct lg_worker_private *p = w->private;
    if (p != NULL) {
        lg_worker_forget_stacks(w);
        for (uint32_t i = 0; i < p->file_count && p->files != NULL; i++) {
            free(p->files[i].short_file);
        }
        free(p->files);
        free(p->stacks);
        free(p->stack_hash);
        lg_deltas_free(p->deltas);
        free_baseline(p->baseline);
        free(p);
    }
    lg_snapshot_close(w->snap);
    free(w);
}

static struct lg_baseline *
take_baseline(const struct lg_worker *w)
{
    const struct lg_snapshot *snap = w->snap;
    struct lg_baseline *b = calloc(1, sizeof(*b));
    if (b == NULL) {
        return NULL;
    }
    b->at_ns = w->private->base_ns;
    b->real_ns = lg_worker_real(w, b->at_ns);
    b->endpoints = calloc(snap->endpoint_count + 1u, sizeof(*b->endpoints));
    b->hists = calloc(snap->hist_count + 1u, sizeof(*b->hists));
    if (b->endpoints == NULL || b->hists == NULL) {
        free_baseline(b);
        return NULL;
    }
    b->endpoint_count = snap->endpoint_count;
    b->hist_count = snap->hist_count;
    memcpy(b->endpoints, snap->endpoints, snap->endpoint_count * sizeof(*b->endpoints));
    memcpy(b->hists, snap->hists, snap->hist_count * sizeof(*b->hists));
    memcpy(b->loops, snap->loops, snap->loop_count * sizeof(b->loops[0]));
    return b;
}

static void
free_baseline(struct lg_baseline *b)
{
    if (b != NULL) {
        free(b->endpoints);
        free(b->hists);
        free(b);
    }
}
