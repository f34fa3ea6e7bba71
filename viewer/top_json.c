/*
 * top_json.c - the model as JSON; see top_json.h.
 */
#include "top_json.h"

#include <string.h>
#include <time.h>

#include "../common/lg_clock.h"
#include "../common/lg_hist.h"

static void write_identity(struct lg_json *json, const struct lg_worker *w);
static void write_lag(struct lg_json *json, const struct lg_worker *w, enum lg_window window);
static void write_windows(struct lg_json *json, const struct lg_window_sum *sums);
static void write_blocked(struct lg_json *json, const char *key, const struct lg_worker *w);
static void write_key(struct lg_json *json, const struct lg_key *key);
static void write_parts(struct lg_json *json, const char *key, const uint64_t *parts);
static void write_holder(struct lg_json *json, const struct lg_key *holder);
static void write_waiting(struct lg_json *json, const char *key, const struct lg_waiting *waiting);
static void write_endpoint(struct lg_json *json, struct lg_top *top, size_t worker,
                           const struct lg_view *view, const struct lg_row *row);
static void write_quantile_source(struct lg_json *json, const char *key,
                                  enum lg_quantile_source source, enum lg_window window);
static void write_hist(struct lg_json *json, const char *key, const struct lg_hist *hist);
static void write_stacks(struct lg_json *json, const struct lg_detail *detail);
static void write_events(struct lg_json *json, struct lg_top *top, size_t worker,
                         const struct lg_view *view);
static void write_event(struct lg_json *json, struct lg_top *top, const struct lg_event *event);
static void write_loops(struct lg_json *json, const struct lg_worker *w);
static void write_pool(struct lg_json *json, const struct lg_worker *w);
static void write_request_id(struct lg_json *json, uint32_t id);
static void real_ms(struct lg_json *json, const char *key, uint64_t real_ns);

void
lg_top_json(struct lg_top *top, const struct lg_view *view, bool events, FILE *out)
{
    struct lg_json json = {.out = out};
    lg_json_object(&json, NULL);
    lg_top_json_head(&json);
    lg_json_array(&json, "workers");
    for (size_t i = 0; i < top->worker_count; i++) {
        lg_top_json_worker(&json, top, i, view, events);
    }
    lg_json_end_array(&json);
    lg_top_json_errors(&json, top->problems.list, top->problems.count);
    lg_json_end_object(&json);
    fputc('\n', out);
}

void
lg_top_json_head(struct lg_json *json)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    lg_json_string(json, "schema", LG_TOP_SCHEMA);
    lg_json_ms(json, "generated_unix_ms", lg_timespec_ns(&ts));
    lg_json_string(json, "viewer", LG_VERSION);
}

void
lg_top_json_errors(struct lg_json *json, const struct lg_problem *list, size_t count)
{
    lg_json_array(json, "errors");
    for (size_t i = 0; i < count; i++) {
        lg_json_object(json, NULL);
        lg_json_u64(json, "pid", list[i].pid > 0 ? (uint64_t)list[i].pid : LG_NONE);
        lg_json_text_or_null(json, "subject", list[i].subject);
        lg_json_string(json, "code", list[i].code);
        lg_json_string(json, "text", list[i].text);
        lg_json_text_or_null(json, "hint", list[i].hint);
        lg_json_end_object(json);
    }
    lg_json_end_array(json);
}

void
lg_top_json_worker(struct lg_json *json, struct lg_top *top, size_t worker,
                   const struct lg_view *view, bool events)
{
    struct lg_worker *w = top->workers[worker];
    const struct lg_window_sum *sum = &w->sum[view->window];
    const struct lg_row *rows;
    lg_json_object(json, NULL);
    write_identity(json, w);
    lg_json_string(json, "window", lg_window_text(view->window));
    lg_json_number(json, "busy", sum->busy_share, 4);
    lg_json_number(json, "requests_per_s", sum->requests_per_s, 3);
    lg_json_u64(json, "open", w->open_requests);
    lg_json_u64(json, "tasks", w->tasks);
    lg_json_us(json, "threshold_us", w->threshold_ns);
    write_lag(json, w, view->window);
    write_windows(json, w->sum);
    write_blocked(json, "blocked_now", w->blocked.active ? w : NULL);
    write_blocked(json, "died_in", w->blocked.at_death ? w : NULL);
    lg_json_array(json, "endpoints");
    size_t count = lg_top_rows(top, worker, view, &rows);
    for (size_t i = 0; i < count; i++) {
        write_endpoint(json, top, worker, view, &rows[i]);
    }
    lg_json_end_array(json);
    if (events) {
        write_events(json, top, worker, view);
    }
    write_loops(json, w);
    write_pool(json, w);
    lg_json_array(json, "features");
    for (size_t i = 0; i < w->feature_count; i++) {
        lg_json_object(json, NULL);
        lg_json_string(json, "name", w->features[i].name);
        lg_json_bool(json, "on", w->features[i].on);
        lg_json_text_or_null(json, "why", w->features[i].why);
        lg_json_end_object(json);
    }
    lg_json_end_array(json);
    lg_json_end_object(json);
}

static void
write_identity(struct lg_json *json, const struct lg_worker *w)
{
    const struct lg_header *header = &w->snap->source.geo.header;
    char layout[32];
    char state[2] = {w->process_state, '\0'};
    snprintf(layout, sizeof(layout), "%u.%u", header->abi_major, header->abi_minor);
    lg_json_u64(json, "pid", w->pid > 0 ? (uint64_t)w->pid : LG_NONE);
    lg_json_string(json, "state", lg_worker_state_text(w->state));
    lg_json_text_or_null(json, "process_state", state);
    lg_json_bool(json, "post_mortem", w->post_mortem);
    lg_json_text_or_null(json, "app", w->app);
    lg_json_text_or_null(json, "server", w->server);
    lg_json_u64(json, "ppid", (uint64_t)w->ppid);
    lg_json_u64(json, "slot", w->slot);
    lg_json_text_or_null(json, "agent", w->agent);
    lg_json_string(json, "layout", layout);
    lg_json_string(json, "python", strcmp(w->python, "-") == 0 ? NULL : w->python);
    lg_json_text_or_null(json, "loop", w->loop_kinds);
    lg_json_string(json, "file", w->snap->source.path);
    real_ms(json, "started_unix_ms", w->started_real_ns);
    lg_json_ms(json, "up_ms", w->up_ns);
    lg_json_ms(json, "heartbeat_age_ms", w->heartbeat_age_ns);
    real_ms(json, "heartbeat_unix_ms", w->heartbeat_real_ns);
    real_ms(json, "ended_unix_ms", w->ended_real_ns);
    lg_json_u64(json, "lost_events", w->lost_events);
    lg_json_number(json, "fill", w->fill, 4);
    lg_json_text_or_null(json, "note", w->note);
    lg_json_text_or_null(json, "message", w->message);
}

static void
write_quantiles(struct lg_json *json, const struct lg_quantiles *q)
{
    lg_json_u64(json, "p50", q->p50_us);
    lg_json_u64(json, "p90", q->p90_us);
    lg_json_u64(json, "p99", q->p99_us);
    lg_json_u64(json, "p999", q->p999_us);
}

static void
write_lag(struct lg_json *json, const struct lg_worker *w, enum lg_window window)
{
    lg_json_object(json, "lag_us");
    lg_json_us(json, "now", w->lag_now_ns);
    write_quantiles(json, &w->sum[window].lag);
    lg_json_us(json, "max", w->sum[window].max_lag_ns);
    lg_json_us(json, "max_ever", w->max_lag_ns);
    real_ms(json, "max_ever_unix_ms", w->max_lag_real_ns);
    write_quantile_source(json, "quantile_window", w->sum[window].lag.source, window);
    lg_json_array(json, "series_1s");
    for (size_t i = 0; i < LG_SERIES; i++) {
        lg_json_us(json, NULL, w->series_lag_ns[i]);
    }
    lg_json_end_array(json);
    lg_json_end_object(json);
}

static void
write_windows(struct lg_json *json, const struct lg_window_sum *sums)
{
    lg_json_object(json, "windows");
    for (int i = 0; i < LG_WINDOW_COUNT; i++) {
        const struct lg_window_sum *s = &sums[i];
        lg_json_object(json, lg_window_text((enum lg_window)i));
        lg_json_us(json, "covered_us", s->covered_ns);
        lg_json_u64(json, "requests", s->requests);
        lg_json_number(json, "requests_per_s", s->requests_per_s, 3);
        lg_json_number(json, "busy", s->busy_share, 4);
        lg_json_u64(json, "blocks", s->blocks);
        lg_json_us(json, "blocked_us", s->blocked_ns);
        lg_json_number(json, "blocked", s->blocked_share, 4);
        lg_json_us(json, "max_lag_us", s->max_lag_ns);
        lg_json_end_object(json);
    }
    lg_json_end_object(json);
}

/* `w` NULL: nothing to tell. */
static void
write_blocked(struct lg_json *json, const char *key, const struct lg_worker *w)
{
    if (w == NULL) {
        lg_json_null(json, key);
        return;
    }
    const struct lg_blocked *b = &w->blocked;
    lg_json_object(json, key);
    lg_json_us(json, "for_us", b->for_ns);
    lg_json_us(json, "threshold_us", b->threshold_ns);
    lg_json_string(json, "kind", lg_format_stall_kind(b->kind));
    lg_json_u64(json, "step", b->step);
    if (b->at_death) {
        lg_json_bool(json, "torn", b->torn);
        lg_json_bool(json, "over_threshold", b->for_ns > b->threshold_ns);
    }
    write_key(json, &b->key);
    write_request_id(json, b->request_id);
    lg_json_text_or_null(json, "task", b->task);
    lg_json_u64(json, "loop", b->loop);
    lg_json_text_or_null(json, "thread", b->thread);
    lg_json_u64(json, "native_id", b->tid != 0 ? b->tid : LG_NONE);
    lg_json_string(json, "cause", b->cause != LG_CAUSE_UNKNOWN ? lg_format_cause(b->cause) : NULL);
    write_parts(json, "parts_us", b->parts_ns);
    lg_json_text_or_null(json, "call", b->call);
    lg_json_us(json, "call_us", b->call_ns);
    lg_json_u64(json, "samples", b->samples);
    lg_json_bool(json, "moving", b->stack.moving);
    lg_top_json_stack(json, "stack", &b->stack);
    lg_top_json_stack(json, "holder_stack", &b->holder_stack);
    write_holder(json, &b->holder);
    write_waiting(json, "waiting", &b->waiting);
    lg_json_us(json, "longest_seen_us", b->longest_seen_ns);
    lg_json_end_object(json);
}

static void
write_key(struct lg_json *json, const struct lg_key *key)
{
    lg_json_string(json, "endpoint_kind", lg_format_kind(key->kind));
    lg_json_text_or_null(json, "method", lg_format_method(key->method));
    lg_json_text_or_null(json, "route", key->name);
}

/* null as a whole where nobody measured them. */
static void
write_parts(struct lg_json *json, const char *key, const uint64_t *parts)
{
    if (parts[0] == LG_NONE) {
        lg_json_null(json, key);
        return;
    }
    lg_json_object(json, key);
    for (uint32_t i = 0; i < LG_CAUSE_COUNT; i++) {
        lg_json_us(json, lg_format_cause(i), parts[i]);
    }
    lg_json_end_object(json);
}

/* null without a stack: an empty list would say that there was none. */
void
lg_top_json_stack(struct lg_json *json, const char *key, const struct lg_stack_view *stack)
{
    if (stack == NULL || stack->depth == 0) {
        lg_json_null(json, key);
        return;
    }
    lg_json_array(json, key);
    for (uint32_t i = 0; i < stack->depth; i++) {
        const struct lg_stack_frame *f = &stack->frame[i];
        lg_json_object(json, NULL);
        lg_json_string(json, "func", f->function);
        lg_json_string(json, "file", f->file);
        lg_json_u64(json, "line", f->line);
        lg_json_string(json, "short_file", f->short_file);
        lg_json_bool(json, "user", f->origin == LG_ORIGIN_USER);
        lg_json_bool(json, "endpoint", f->endpoint);
        lg_json_end_object(json);
    }
    lg_json_end_array(json);
}

static void
write_holder(struct lg_json *json, const struct lg_key *holder)
{
    bool known = holder->name != NULL;
    lg_json_text_or_null(json, "holder_method", known ? lg_format_method(holder->method) : NULL);
    lg_json_string(json, "holder_route", known ? holder->name : NULL);
}

static void
write_waiting(struct lg_json *json, const char *key, const struct lg_waiting *waiting)
{
    lg_json_object(json, key);
    lg_json_u64(json, "requests", waiting->requests);
    lg_json_us(json, "longest_us", waiting->longest_ns);
    lg_json_us(json, "sum_us", waiting->sum_ns);
    lg_json_array(json, "endpoints");
    for (size_t i = 0; i < waiting->endpoint_count; i++) {
        lg_json_object(json, NULL);
        write_key(json, &waiting->endpoint[i].key);
        lg_json_u64(json, "requests", waiting->endpoint[i].requests);
        lg_json_us(json, "wait_us", waiting->endpoint[i].wait_ns);
        lg_json_end_object(json);
    }
    lg_json_end_array(json);
    lg_json_end_object(json);
}

static void
write_endpoint(struct lg_json *json, struct lg_top *top, size_t worker, const struct lg_view *view,
               const struct lg_row *row)
{
    const struct lg_figures *f = &row->now;
    const struct lg_detail *d =
        lg_top_row_detail(top, worker, view, row, LG_BANDS_FINE, LG_STACKS_BY_TIME);
    lg_json_object(json, NULL);
    write_key(json, &row->key);
    lg_json_string(json, "window", lg_window_text(view->window));
    lg_json_us(json, "blocked_us", f->blocked_ns);
    lg_json_number(json, "blocked", f->loop_share, 4);
    lg_json_u64(json, "blocks", f->blocks);
    lg_json_bool(json, "ongoing", row->running);
    lg_json_us(json, "max_us", f->max_ns);
    lg_json_u64(json, "p50_us", f->step.p50_us);
    lg_json_u64(json, "p90_us", f->step.p90_us);
    lg_json_u64(json, "p99_us", f->step.p99_us);
    lg_json_u64(json, "p999_us", f->step.p999_us);
    write_quantile_source(json, "quantile_window", f->step.source, view->window);
    lg_json_object(json, "response_us");
    write_quantiles(json, &f->response);
    lg_json_end_object(json);
    lg_json_u64(json, "requests", f->requests);
    lg_json_number(json, "requests_per_s", f->requests_per_s, 3);
    lg_json_u64(json, "steps", f->steps);
    lg_json_us(json, "busy_us", f->busy_ns);
    lg_json_number(json, "busy", f->busy_share, 4);
    lg_json_u64(json, "open", row->open);
    lg_json_us(json, "threshold_us", row->threshold_ns);
    lg_json_u64(json, "total_blocks", row->total_blocks);
    lg_json_u64(json, "total_requests", row->total_requests);
    lg_json_u64(json, "cumulative_events", d->cumulative_events);
    lg_json_ms(json, "first_seen_age_ms", row->first_seen_ns);
    lg_json_ms(json, "last_seen_age_ms", row->last_seen_ns);
    lg_json_us(json, "last_block_us", row->last_block_ns);
    lg_json_ms(json, "last_block_age_ms", row->last_block_age_ns);
    lg_json_object(json, "status");
    lg_json_u64(json, "2xx", d->status[0]);
    lg_json_u64(json, "3xx", d->status[1]);
    lg_json_u64(json, "4xx", d->status[2]);
    lg_json_u64(json, "5xx", d->status[3]);
    lg_json_u64(json, "exceptions", d->exceptions);
    lg_json_u64(json, "cancelled", d->cancelled);
    lg_json_end_object(json);
    write_parts(json, "total_parts_us", d->parts_ns);
    lg_json_us(json, "total_pool_wait_us", d->pool_wait_ns);
    lg_json_us(json, "total_pool_run_us", d->pool_run_ns);
    write_hist(json, "hist_us", row->step_hist);
    lg_json_array(json, "timeline_blocked_us");
    for (size_t i = LG_LONG_SERIES - LG_SERIES; i < LG_LONG_SERIES; i++) {
        lg_json_us(json, NULL, d->series_blocked_ns[i]);
    }
    lg_json_end_array(json);
    lg_json_u64(json, "waited_requests", f->waited);
    write_waiting(json, "waited", &d->waited);
    write_stacks(json, d);
    lg_json_text_or_null(json, "hint", d->hint);
    lg_json_end_object(json);
}

static void
write_quantile_source(struct lg_json *json, const char *key, enum lg_quantile_source source,
                      enum lg_window window)
{
    switch (source) {
    case LG_QUANTILE_HISTOGRAM:
        lg_json_string(json, key, lg_window_text(window));
        break;
    case LG_QUANTILE_RECORDS:
        lg_json_string(json, key, "records");
        break;
    case LG_QUANTILE_TOTAL:
        lg_json_string(json, key, "total");
        break;
    default:
        lg_json_null(json, key);
        break;
    }
}

/* Only buckets that hold something, with their true edges. */
static void
write_hist(struct lg_json *json, const char *key, const struct lg_hist *hist)
{
    if (hist == NULL) {
        lg_json_null(json, key);
        return;
    }
    lg_json_array(json, key);
    for (uint32_t i = 0; i < LG_HIST_BUCKETS; i++) {
        if (hist->bucket[i] == 0) {
            continue;
        }
        lg_json_object(json, NULL);
        lg_json_u64(json, "lo", lg_hist_lo_us(i));
        lg_json_u64(json, "hi", i + 1 == LG_HIST_BUCKETS ? LG_NONE : lg_hist_hi_us(i));
        lg_json_u64(json, "count", hist->bucket[i]);
        lg_json_end_object(json);
    }
    lg_json_end_array(json);
}

static void
write_stacks(struct lg_json *json, const struct lg_detail *detail)
{
    lg_json_array(json, "stacks");
    for (size_t i = 0; i < detail->stack_count; i++) {
        const struct lg_weighted_stack *s = &detail->stacks[i];
        lg_json_object(json, NULL);
        lg_json_us(json, "blocked_us", s->total_ns);
        lg_json_number(json, "share", s->share, 4);
        lg_json_u64(json, "count", s->count);
        lg_json_us(json, "max_us", s->max_ns);
        lg_json_ms(json, "last_age_ms", s->last_age_ns);
        lg_top_json_stack(json, "stack", s->stack);
        lg_json_end_object(json);
    }
    lg_json_end_array(json);
}

static void
write_events(struct lg_json *json, struct lg_top *top, size_t worker, const struct lg_view *view)
{
    const struct lg_event *events;
    size_t count = lg_top_events(top, worker, view, &events);
    size_t most = view->top != 0 && view->top < count ? view->top : count;
    lg_json_array(json, "events");
    for (size_t i = 0; i < most; i++) {
        if (events[i].kind != LG_EVENT_MARK) {
            write_event(json, top, &events[i]);
        }
    }
    lg_json_end_array(json);
    lg_json_array(json, "lifecycle");
    for (size_t i = 0; i < most; i++) {
        if (events[i].kind == LG_EVENT_MARK) {
            lg_json_object(json, NULL);
            real_ms(json, "time_unix_ms", events[i].real_ns);
            lg_json_string(json, "text", events[i].mark);
            lg_json_end_object(json);
        }
    }
    lg_json_end_array(json);
}

static void
write_event(struct lg_json *json, struct lg_top *top, const struct lg_event *event)
{
    struct lg_event_detail d;
    if (!lg_top_event_detail(top, event, &d)) {
        return;
    }
    lg_json_object(json, NULL);
    real_ms(json, "time_unix_ms", event->real_ns);
    lg_json_string(json, "kind", lg_format_stall_kind(event->kind));
    lg_json_us(json, "duration_us", event->duration_ns);
    lg_json_us(json, "threshold_us", event->threshold_ns);
    write_key(json, &event->key);
    write_request_id(json, event->request_id);
    lg_json_text_or_null(json, "task", d.task);
    lg_json_u64(json, "loop", event->loop);
    lg_json_text_or_null(json, "thread", d.thread);
    lg_json_u64(json, "native_id", d.tid != 0 ? d.tid : LG_NONE);
    lg_json_string(json, "cause",
                   event->cause != LG_CAUSE_UNKNOWN ? lg_format_cause(event->cause) : NULL);
    write_parts(json, "parts_us", d.parts_ns);
    lg_json_text_or_null(json, "call", d.call);
    lg_json_us(json, "call_us", d.call_ns);
    lg_json_u64(json, "samples", d.samples);
    lg_json_u64(json, "steps", d.steps);
    lg_json_u64(json, "major_faults", d.major_faults);
    lg_json_bool(json, "moving", d.stack.moving);
    lg_json_bool(json, "throttled", (event->flags & LG_STALL_THROTTLED) != 0);
    lg_top_json_stack(json, "stack", &d.stack);
    lg_top_json_stack(json, "holder_stack", &d.holder_stack);
    write_holder(json, &d.holder);
    write_waiting(json, "waited", &d.waited);
    lg_json_bool(json, "ongoing", event->ongoing);
    lg_json_bool(json, "torn", event->torn);
    lg_json_end_object(json);
}

static void
write_loops(struct lg_json *json, const struct lg_worker *w)
{
    static const char *const kinds[] = {"asyncio", "uvloop", "other"};
    lg_json_array(json, "loops");
    for (size_t i = 0; i < w->loop_count; i++) {
        const struct lg_loop_view *l = &w->loops[i];
        lg_json_object(json, NULL);
        lg_json_u64(json, "loop", l->index);
        lg_json_string(json, "kind", kinds[l->kind < 2 ? l->kind : 2]);
        lg_json_bool(json, "closed", l->closed);
        lg_json_text_or_null(json, "thread", l->thread);
        lg_json_u64(json, "native_id", l->tid != 0 ? l->tid : LG_NONE);
        lg_json_us(json, "lag_now_us", l->lag_now_ns);
        lg_json_us(json, "max_lag_us", l->max_lag_ns);
        lg_json_ms(json, "heartbeat_age_ms", l->heartbeat_age_ns);
        lg_json_us(json, "threshold_us", l->threshold_ns);
        lg_json_u64(json, "tasks", l->tasks);
        lg_json_u64(json, "open", l->open_requests);
        lg_json_u64(json, "ready", l->ready_length);
        lg_json_u64(json, "iterations", l->iterations);
        lg_json_u64(json, "steps", l->steps);
        lg_json_u64(json, "gc_pauses", l->gc_pauses);
        lg_json_u64(json, "throttled", l->throttled);
        write_parts(json, "parts_us", l->parts_ns);
        write_windows(json, l->sum);
        lg_json_end_object(json);
    }
    lg_json_end_array(json);
}

static void
write_pool(struct lg_json *json, const struct lg_worker *w)
{
    const struct lg_pool_view *p = &w->pool;
    if (!p->seen) {
        lg_json_null(json, "threadpool");
        return;
    }
    lg_json_object(json, "threadpool");
    lg_json_u64(json, "limit", p->limit);
    lg_json_u64(json, "busy", p->busy);
    lg_json_u64(json, "waiting", p->waiting);
    lg_json_u64(json, "high_water", p->high_water);
    lg_json_u64(json, "waiting_high_water", p->waiting_high_water);
    lg_json_u64(json, "full_count", p->times_full);
    lg_json_us(json, "full_for_us", p->full_for_ns);
    lg_json_u64(json, "submitted", p->submitted);
    lg_json_u64(json, "finished", p->finished);
    lg_json_us(json, "wait_sum_us", p->wait_sum_ns);
    lg_json_us(json, "wait_max_us", p->wait_max_ns);
    lg_json_us(json, "run_sum_us", p->run_sum_ns);
    lg_json_us(json, "run_max_us", p->run_max_ns);
    lg_json_object(json, "wait_us");
    write_quantiles(json, &p->wait);
    lg_json_end_object(json);
    lg_json_array(json, "stuck");
    for (size_t i = 0; i < p->stuck_count; i++) {
        lg_json_object(json, NULL);
        lg_json_u64(json, "native_id", p->stuck[i].tid);
        write_key(json, &p->stuck[i].key);
        lg_json_us(json, "for_us", p->stuck[i].for_ns);
        lg_top_json_stack(json, "stack", &p->stuck[i].stack);
        lg_json_end_object(json);
    }
    lg_json_end_array(json);
    lg_json_end_object(json);
}

/* The same eight digits as in the response header, the log and on the screen. */
static void
write_request_id(struct lg_json *json, uint32_t id)
{
    char text[16];
    snprintf(text, sizeof(text), "%08x", id);
    lg_json_string(json, "request_id", id != 0 ? text : NULL);
}

static void
real_ms(struct lg_json *json, const char *key, uint64_t real_ns)
{
    lg_json_ms(json, key, real_ns != 0 ? real_ns : LG_NONE);
}
