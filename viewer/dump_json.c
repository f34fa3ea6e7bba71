/*
 * dump_json.c - all of a segment as JSON: the worker as loopguard-top has it,
 * in every window, and behind it the tables and records as they stand.
 */
#include <string.h>

#include "../common/lg_clock.h"
#include "../common/lg_hist.h"
#include "dump.h"
#include "model_private.h"
#include "top_json.h"

static void write_part(struct lg_json *json, struct lg_worker *w, enum lg_dump_part part);
static void write_process(struct lg_json *json, const struct lg_worker *w);
static void write_config(struct lg_json *json, const struct lg_config_info *c);
static void write_self(struct lg_json *json, const struct lg_snapshot *snap);
static void write_tables(struct lg_json *json, const struct lg_snapshot *snap);
static void write_histograms(struct lg_json *json, struct lg_worker *w);
static void write_one_hist(struct lg_json *json, const char *key, const struct lg_hist *hist);
static void write_history(struct lg_json *json, struct lg_worker *w);
static void write_loop_history(struct lg_json *json, struct lg_worker *w);
static void write_records(struct lg_json *json, struct lg_worker *w);
static void write_record(struct lg_json *json, struct lg_worker *w, uint32_t ring,
                         const struct lg_record *rec);
static void write_stacks(struct lg_json *json, struct lg_worker *w);
static void write_damage(struct lg_json *json, const struct lg_snapshot *snap);
static void write_endpoint(struct lg_json *json, struct lg_worker *w, uint32_t index);
static const char *record_text(uint32_t kind);

void
lg_dump_json(struct lg_top *top, FILE *out)
{
    struct lg_json json = {.out = out};
    struct lg_worker *w = top->workers[0];
    struct lg_view view = {.window = LG_WINDOW_TOTAL};
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    lg_json_object(&json, NULL);
    lg_json_string(&json, "schema", LG_DUMP_SCHEMA);
    lg_json_ms(&json, "generated_unix_ms", lg_timespec_ns(&ts));
    lg_json_string(&json, "viewer", LG_VERSION);
    lg_json_array(&json, "workers");
    for (int i = 0; i < LG_WINDOW_COUNT; i++) {
        /* Total first, with the events; the dead have a last minute besides. */
        view.window = (enum lg_window)(LG_WINDOW_COUNT - 1 - i);
        bool total = view.window == LG_WINDOW_TOTAL;
        if (total || view.window == LG_WINDOW_1M || !w->post_mortem) {
            lg_top_json_worker(&json, top, 0, &view, total);
        }
    }
    lg_json_end_array(&json);
    for (int part = 0; part < LG_DUMP_PARTS; part++) {
        write_part(&json, w, (enum lg_dump_part)part);
    }
    lg_json_end_object(&json);
    fputc('\n', out);
}

void
lg_dump_json_part(struct lg_top *top, enum lg_dump_part part, FILE *out)
{
    struct lg_json json = {.out = out};
    lg_json_object(&json, NULL);
    write_part(&json, top->workers[0], part);
    lg_json_end_object(&json);
}

const char *
lg_dump_section(uint32_t kind)
{
    switch (kind) {
#define LG_X(name, number, type, count, what) \
    case number: \
        return #name;
        LG_SECTIONS(LG_X)
#undef LG_X
    default:
        return "?";
    }
}

static void
write_part(struct lg_json *json, struct lg_worker *w, enum lg_dump_part part)
{
    switch (part) {
    case LG_DUMP_FACTS:
        write_process(json, w);
        write_config(json, &w->snap->source.geo.config);
        write_self(json, w->snap);
        write_tables(json, w->snap);
        write_damage(json, w->snap);
        break;
    case LG_DUMP_HISTOGRAMS:
        write_histograms(json, w);
        break;
    case LG_DUMP_HISTORY:
        write_history(json, w);
        write_loop_history(json, w);
        break;
    case LG_DUMP_STACKS:
        write_stacks(json, w);
        break;
    default:
        write_records(json, w);
        break;
    }
}

static void
write_text(struct lg_json *json, const char *key, const char *text, size_t size)
{
    char clean[1100];
    lg_text_clean(text, size, clean, sizeof(clean));
    lg_json_text_or_null(json, key, clean);
}

static void
write_process(struct lg_json *json, const struct lg_worker *w)
{
    const struct lg_proc_info *p = &w->snap->source.geo.proc;
    const struct lg_header *h = &w->snap->source.geo.header;
    char boot[33];
    for (int i = 0; i < 16; i++) {
        snprintf(boot + 2 * i, 3, "%02x", p->boot_id[i]);
    }
    lg_json_object(json, "process");
    lg_json_u64(json, "pid", p->pid);
    lg_json_u64(json, "ppid", p->ppid);
    lg_json_u64(json, "uid", p->uid);
    lg_json_u64(json, "gid", p->gid);
    lg_json_u64(json, "start_ticks", p->start_ticks);
    lg_json_string(json, "boot_id", boot);
    lg_json_u64(json, "ns_pid", p->ns_pid);
    lg_json_u64(json, "ns_mnt", p->ns_mnt);
    lg_json_u64(json, "ns_time", p->ns_time);
    lg_json_u64(json, "pointer_size", p->pointer_size);
    lg_json_bool(json, "free_threaded", p->free_threaded != 0);
    lg_json_u64(json, "start_mono_ns", p->start_mono_ns);
    lg_json_u64(json, "start_real_ns", p->start_real_ns);
    lg_json_u64(json, "start_uncertainty_ns", p->start_uncertainty_ns);
    write_text(json, "exe", p->exe, sizeof(p->exe));
    write_text(json, "argv", p->argv, sizeof(p->argv));
    lg_json_text_or_null(json, "cwd", w->cwd);
    lg_json_text_or_null(json, "prefix", w->prefix);
    write_text(json, "off_reason", p->off_reason, sizeof(p->off_reason));
    lg_json_u64(json, "segment_state", w->snap->state);
    lg_json_u64(json, "segment_bytes", h->segment_size);
    lg_json_u64(json, "file_bytes", w->snap->source.file_size);
    lg_json_end_object(json);
}

static void
write_config(struct lg_json *json, const struct lg_config_info *c)
{
    static const char *const keep[] = {"never", "crash", "always"};
    static const char *const adaptive[] = {"fixed", "calibrated", "adaptive"};
    lg_json_object(json, "config");
    lg_json_us(json, "threshold_us", c->threshold_ns);
    lg_json_us(json, "iteration_threshold_us", c->iteration_threshold_ns);
    lg_json_us(json, "cumulative_threshold_us",
               c->cumulative_threshold_ns != 0 ? c->cumulative_threshold_ns : LG_NONE);
    lg_json_us(json, "cumulative_window_us", c->cumulative_window_ns);
    lg_json_us(json, "cumulative_min_step_us", c->cumulative_min_step_ns);
    lg_json_us(json, "watchdog_interval_us", c->watchdog_interval_ns);
    lg_json_u64(json, "stack_depth", c->stack_depth);
    lg_json_u64(json, "max_endpoints", c->max_endpoints);
    lg_json_string(json, "keep_segment", c->keep_segment < 3 ? keep[c->keep_segment] : NULL);
    lg_json_string(json, "hooks", c->hooks == 0 ? "off" : "auto");
    lg_json_bool(json, "task_factory", c->task_factory != 0);
    lg_json_string(json, "threshold_kind", c->adaptive < 3 ? adaptive[c->adaptive] : NULL);
    lg_json_end_object(json);
}

static void
write_self(struct lg_json *json, const struct lg_snapshot *snap)
{
    if ((snap->missing & 1u << LG_SEC_SELF) != 0) {
        lg_json_null(json, "agent_counters");
        return;
    }
    lg_json_object(json, "agent_counters");
#define LG_X(field, what) lg_json_u64(json, #field, snap->self.field);
    LG_SELF_COUNTERS(LG_X)
#undef LG_X
    lg_json_end_object(json);
}

static void
write_tables(struct lg_json *json, const struct lg_snapshot *snap)
{
    const struct lg_extent *x = snap->source.geo.section;
    const struct {
        const char *name;
        uint64_t used;
        uint32_t kind;
    } rows[] = {
        {"strings", snap->tables.strings_used, LG_SEC_STRINGS},
        {"endpoints", snap->tables.endpoints_used, LG_SEC_ENDPOINTS},
        {"stacks", snap->tables.stacks_used, LG_SEC_STACKS},
        {"frames", snap->tables.frames_used, LG_SEC_FRAMES},
        {"loops", snap->tables.loops_used, LG_SEC_LOOPS},
        {"stalls", snap->tables.stalls_head, LG_SEC_STALLS},
    };
    lg_json_object(json, "tables");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        lg_json_object(json, rows[i].name);
        lg_json_u64(json, "used", rows[i].used);
        lg_json_u64(json, "room", x[rows[i].kind].count);
        lg_json_end_object(json);
    }
    lg_json_end_object(json);
}

static void
write_endpoint(struct lg_json *json, struct lg_worker *w, uint32_t index)
{
    const struct lg_snapshot *snap = w->snap;
    bool there = index < snap->endpoint_count && !snap->endpoint_bad[index];
    uint64_t key = there ? snap->endpoints[index].key : 0;
    lg_json_u64(json, "endpoint", index);
    lg_json_string(json, "endpoint_kind", there ? lg_format_kind(LG_KEY_KIND(key)) : NULL);
    lg_json_text_or_null(json, "method", there ? lg_format_method(LG_KEY_METHOD(key)) : NULL);
    lg_json_text_or_null(json, "route", there ? lg_snapshot_text(w->snap, LG_KEY_NAME(key)) : NULL);
}

static void
write_histograms(struct lg_json *json, struct lg_worker *w)
{
    const struct lg_snapshot *snap = w->snap;
    lg_json_object(json, "histograms");
    lg_json_array(json, "endpoints");
    for (uint32_t i = 0; i < snap->endpoint_count; i++) {
        if (LG_HIST_ON_LOOP(i) >= snap->hist_count) {
            break;
        }
        lg_json_object(json, NULL);
        write_endpoint(json, w, i);
        write_one_hist(json, "on_loop_us", &snap->hists[LG_HIST_ON_LOOP(i)]);
        write_one_hist(json, "response_us", &snap->hists[LG_HIST_RESPONSE(i)]);
        lg_json_end_object(json);
    }
    lg_json_end_array(json);
    lg_json_array(json, "lag");
    for (uint32_t i = 0; i < snap->loop_count; i++) {
        uint32_t index = LG_HIST_LAG(snap->endpoint_slots, i);
        if (index < snap->hist_count) {
            lg_json_object(json, NULL);
            lg_json_u64(json, "loop", i);
            write_one_hist(json, "lag_us", &snap->hists[index]);
            lg_json_end_object(json);
        }
    }
    lg_json_end_array(json);
    uint32_t pool = LG_HIST_POOL_WAIT(snap->endpoint_slots, snap->loop_slots);
    if (pool < snap->hist_count) {
        write_one_hist(json, "pool_wait_us", &snap->hists[pool]);
    }
    else {
        lg_json_null(json, "pool_wait_us");
    }
    lg_json_end_object(json);
}

static void
write_one_hist(struct lg_json *json, const char *key, const struct lg_hist *hist)
{
    lg_json_array(json, key);
    for (uint32_t i = 0; i < LG_HIST_BUCKETS; i++) {
        if (hist->bucket[i] != 0) {
            lg_json_object(json, NULL);
            lg_json_u64(json, "lo", lg_hist_lo_us(i));
            lg_json_u64(json, "hi", i + 1 == LG_HIST_BUCKETS ? LG_NONE : lg_hist_hi_us(i));
            lg_json_u64(json, "count", hist->bucket[i]);
            lg_json_end_object(json);
        }
    }
    lg_json_end_array(json);
}

static void
write_history(struct lg_json *json, struct lg_worker *w)
{
    const struct lg_snapshot *snap = w->snap;
    lg_json_array(json, "endpoint_history");
    for (uint32_t e = 0; e < snap->endpoint_count && e < snap->endpoint_history_count; e++) {
        for (uint32_t i = 0; i < LG_CELLS; i++) {
            const struct lg_cell *c = &snap->endpoint_history[(size_t)e * LG_CELLS + i];
            bool tens = i >= LG_CELLS_1S;
            uint64_t length_s = tens ? 10 : 1;
            if (LG_LO(c->second_requests) == 0) {
                continue;
            }
            lg_json_object(json, NULL);
            lg_json_u64(json, "endpoint", e);
            lg_json_u64(json, "mono_s", LG_LO(c->second_requests) * length_s);
            lg_json_u64(json, "seconds", length_s);
            lg_json_u64(json, "requests", LG_HI(c->second_requests));
            lg_json_u64(json, "steps", LG_LO(c->steps_busy_us));
            lg_json_u64(json, "busy_us", LG_HI(c->steps_busy_us));
            lg_json_u64(json, "blocked_us", LG_LO(c->blocked_us_blocks));
            lg_json_u64(json, "blocks", LG_HI(c->blocked_us_blocks));
            lg_json_u64(json, "max_us", LG_LO(c->max_step_us_waited));
            lg_json_u64(json, "waited", LG_HI(c->max_step_us_waited));
            lg_json_end_object(json);
        }
    }
    lg_json_end_array(json);
}

static void
write_loop_history(struct lg_json *json, struct lg_worker *w)
{
    const struct lg_snapshot *snap = w->snap;
    lg_json_array(json, "loop_history");
    for (uint32_t l = 0; l < snap->loop_count && l < snap->loop_history_count; l++) {
        for (uint32_t i = 0; i < LG_LOOP_CELLS; i++) {
            const struct lg_loop_cell *c = &snap->loop_history[(size_t)l * LG_LOOP_CELLS + i];
            if (LG_LO(c->second_iterations) == 0) {
                continue;
            }
            lg_json_object(json, NULL);
            lg_json_u64(json, "loop", l);
            lg_json_u64(json, "mono_s", LG_LO(c->second_iterations));
            lg_json_u64(json, "iterations", LG_HI(c->second_iterations));
            lg_json_u64(json, "busy_us", LG_LO(c->busy_us_max_lag_us));
            lg_json_u64(json, "max_lag_us", LG_HI(c->busy_us_max_lag_us));
            lg_json_u64(json, "blocked_us", LG_LO(c->blocked_us_blocks));
            lg_json_u64(json, "blocks", LG_HI(c->blocked_us_blocks));
            lg_json_u64(json, "requests", LG_LO(c->requests_open));
            lg_json_u64(json, "open", LG_HI(c->requests_open));
            lg_json_u64(json, "cpu_us", LG_LO(c->cpu_us_gil_us));
            lg_json_u64(json, "gil_us", LG_HI(c->cpu_us_gil_us));
            lg_json_u64(json, "io_us", LG_LO(c->io_us_gc_us));
            lg_json_u64(json, "gc_us", LG_HI(c->io_us_gc_us));
            lg_json_end_object(json);
        }
    }
    lg_json_end_array(json);
}

/* The stack table: counted since the start, with its frames. */
static void
write_stacks(struct lg_json *json, struct lg_worker *w)
{
    const struct lg_snapshot *snap = w->snap;
    lg_json_array(json, "stacks");
    for (uint32_t i = 0; i < snap->tables.stacks_used && i < snap->stack_count; i++) {
        const struct lg_stack *s = &snap->stacks[i];
        if (s->count == 0) {
            continue;
        }
        lg_json_object(json, NULL);
        lg_json_u64(json, "stack", i);
        write_endpoint(json, w, LG_LO(s->endpoint_flags));
        lg_json_u64(json, "count", s->count);
        lg_json_us(json, "total_us", s->total_ns);
        lg_json_us(json, "max_us", s->max_ns);
        lg_json_u64(json, "first_mono_ns", s->first_ns);
        lg_json_u64(json, "last_mono_ns", s->last_ns);
        lg_top_json_stack(json, "frames", lg_worker_stack(w, i));
        lg_json_end_object(json);
    }
    lg_json_end_array(json);
}

static void
write_records(struct lg_json *json, struct lg_worker *w)
{
    const struct lg_snapshot *snap = w->snap;
    lg_json_array(json, "rings");
    for (uint32_t i = 0; i < LG_RINGS; i++) {
        const struct lg_records *r = &snap->rings[i];
        if (r->capacity == 0) {
            continue;
        }
        lg_json_object(json, NULL);
        lg_json_u64(json, "ring", i);
        lg_json_string(json, "class", r->ring_class == LG_RING_RARE ? "rare" : "bulk");
        lg_json_u64(json, "capacity", r->capacity);
        lg_json_u64(json, "written", r->to);
        lg_json_u64(json, "torn_at_death", r->cursor.torn);
        lg_json_bool(json, "damaged", r->cursor.damaged);
        lg_json_array(json, "records");
        for (uint64_t t = r->from; t < r->to; t++) {
            const struct lg_record *rec = lg_snapshot_record(snap, i, t);
            if (rec != NULL) {
                write_record(json, w, i, rec);
            }
        }
        lg_json_end_array(json);
        lg_json_end_object(json);
    }
    lg_json_end_array(json);
}

/* Requests in words, of the others the payload as the layout names it. */
static void
write_record(struct lg_json *json, struct lg_worker *w, uint32_t ring, const struct lg_record *rec)
{
    uint32_t kind = LG_TAG_KIND(rec->tag);
    (void)ring;
    lg_json_object(json, NULL);
    lg_json_u64(json, "ticket", rec->ticket);
    lg_json_u64(json, "mono_ns", rec->time_ns);
    lg_json_string(json, "kind", record_text(kind));
    if (kind == LG_REC_REQUEST) {
        char id[16];
        uint32_t more = LG_HI(rec->p[3]);
        snprintf(id, sizeof(id), "%08x", LG_LO(rec->p[3]));
        write_endpoint(json, w, LG_TAG_ENDPOINT(rec->tag));
        lg_json_us(json, "duration_us", rec->p[0]);
        lg_json_us(json, "on_loop_us", rec->p[1]);
        lg_json_us(json, "longest_step_us", rec->p[2]);
        lg_json_string(json, "request_id", LG_LO(rec->p[3]) != 0 ? id : NULL);
        lg_json_u64(json, "status", (more & 0xffff) != 0 ? more & 0xffff : LG_NONE);
        lg_json_bool(json, "exception", (more >> 24 & LG_REQ_EXCEPTION) != 0);
        lg_json_bool(json, "cancelled", (more >> 24 & LG_REQ_CANCELLED) != 0);
        lg_json_us(json, "pool_wait_us", rec->p[4]);
    }
    else {
        lg_json_array(json, "payload");
        for (int i = 0; i < LG_PAYLOAD_WORDS; i++) {
            lg_json_u64(json, NULL, rec->p[i]);
        }
        lg_json_end_array(json);
    }
    lg_json_end_object(json);
}

static const char *
record_text(uint32_t kind)
{
    switch (kind) {
#define LG_X(name, number, text) \
    case number: \
        return text;
        LG_RECORDS(LG_X)
#undef LG_X
    default:
        return NULL;
    }
}

static void
write_damage(struct lg_json *json, const struct lg_snapshot *snap)
{
    size_t known = snap->fault_count < LG_MAX_FAULTS ? snap->fault_count : LG_MAX_FAULTS;
    lg_json_object(json, "damage");
    lg_json_u64(json, "places", snap->fault_count);
    lg_json_array(json, "faults");
    for (size_t i = 0; i < known; i++) {
        lg_json_object(json, NULL);
        lg_json_u64(json, "offset", snap->faults[i].offset);
        lg_json_string(json, "what", snap->faults[i].what);
        lg_json_end_object(json);
    }
    lg_json_end_array(json);
    lg_json_array(json, "cut_sections");
    for (uint32_t kind = 1; kind < LG_MAX_SECTIONS; kind++) {
        if ((snap->cut_sections & 1u << kind) != 0) {
            lg_json_string(json, NULL, lg_dump_section(kind));
        }
    }
    lg_json_end_array(json);
    lg_json_u64(json, "skipped_sections", snap->source.geo.skipped_sections);
    lg_json_end_object(json);
}
