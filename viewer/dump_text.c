/*
 * dump_text.c - a segment for a person; and the words about what is not whole.
 */
#include <string.h>

#include "../common/lg_clock.h"
#include "dump.h"
#include "print_once.h"

static void write_process(const struct lg_worker *w, FILE *out);
static void write_loops(struct lg_top *top, FILE *out);
static void write_pool(const struct lg_worker *w, FILE *out);
static void write_endpoints(struct lg_top *top, FILE *out);
static void write_stacks(struct lg_top *top, FILE *out);
static void write_agent(const struct lg_worker *w, FILE *out);
static void write_rings(const struct lg_worker *w, FILE *out);

#define D(ns) lg_format_duration((ns), (char[LG_TEXT]){0}, LG_TEXT)
#define C(n) lg_format_count((n), (char[LG_TEXT]){0}, LG_TEXT)

void
lg_dump_text(struct lg_top *top, FILE *out)
{
    struct lg_paint plain = lg_paint_for(false);
    struct lg_view view = {.window = LG_WINDOW_TOTAL};
    const struct lg_worker *w = top->workers[0];
    lg_print_header("loopguard-dump", top, 0, plain, out);
    write_process(w, out);
    if (w->blocked.active || w->blocked.at_death) {
        fprintf(out, "\n== %s\n", w->post_mortem ? "What ran at the end" : "Blocked now");
        (void)lg_print_blocked(top, 0, plain, out);
    }
    fprintf(out, "\n== Endpoints\n");
    write_endpoints(top, out);
    fprintf(out, "\n== Blocking stacks\n");
    write_stacks(top, out);
    fprintf(out, "\n== Events, newest first\n");
    lg_print_events(top, &view, plain, out);
    fprintf(out, "\n== Loops\n");
    write_loops(top, out);
    write_pool(w, out);
    fprintf(out, "\n== The agent itself\n");
    write_agent(w, out);
    write_rings(w, out);
}

static void
write_process(const struct lg_worker *w, FILE *out)
{
    const struct lg_proc_info *p = &w->snap->source.geo.proc;
    const struct lg_config_info *c = &w->snap->source.geo.config;
    char text[1024];
    char when[LG_TEXT];
    fprintf(out, " Pid    %u   parent %u   user %u   slot %u   started %s\n", p->pid, p->ppid,
            p->uid, p->worker_slot,
            lg_format_clock(p->start_real_ns, 1, false, when, sizeof(when)));
    lg_text_clean(p->exe, sizeof(p->exe), text, sizeof(text));
    fprintf(out, " Exe    %s\n", text);
    lg_text_clean(p->argv, sizeof(p->argv), text, sizeof(text));
    fprintf(out, " Args   %s\n Cwd    %s\n Prefix %s\n", text, w->cwd, w->prefix);
    fprintf(out, " Limits threshold %s   iteration %s   cumulative %s in %s   watchdog every %s\n",
            D(c->threshold_ns), D(c->iteration_threshold_ns), D(c->cumulative_threshold_ns),
            D(c->cumulative_window_ns), D(c->watchdog_interval_ns));
    fprintf(out, " File   %s   %s   layout %u.%u\n", w->snap->source.path,
            lg_format_bytes(w->snap->source.file_size, (char[LG_TEXT]){0}, LG_TEXT),
            w->snap->source.geo.header.abi_major, w->snap->source.geo.header.abi_minor);
}

/* The last minute and the whole life: what a post-mortem is asked for. */
static void
write_endpoints(struct lg_top *top, FILE *out)
{
    struct lg_view view = {.window = LG_WINDOW_1M};
    lg_print_rows(top, 0, &view, out);
    fputc('\n', out);
    view.window = LG_WINDOW_TOTAL;
    lg_print_rows(top, 0, &view, out);
}

static void
write_stacks(struct lg_top *top, FILE *out)
{
    struct lg_view view = {.window = LG_WINDOW_TOTAL};
    const struct lg_row *rows;
    size_t count = lg_top_rows(top, 0, &view, &rows);
    bool any = false;
    for (size_t i = 0; i < count; i++) {
        const struct lg_detail *d =
            lg_top_row_detail(top, 0, &view, &rows[i], LG_BANDS_FINE, LG_STACKS_BY_TIME);
        char name[512];
        for (size_t k = 0; k < d->stack_count; k++) {
            const struct lg_weighted_stack *s = &d->stacks[k];
            fprintf(out, "%s %8s  %3sx  max %s  %s\n", any ? "\n" : "", D(s->total_ns), C(s->count),
                    D(s->max_ns), lg_print_prose(&rows[i].key, name, sizeof(name)));
            if (s->stack != NULL) {
                lg_print_stack(s->stack, "     ", false, out);
            }
            else {
                fprintf(out, "     (no stack was taken)\n");
            }
            any = true;
        }
    }
    if (!any) {
        fprintf(out, " (none)\n");
    }
}

static void
write_loops(struct lg_top *top, FILE *out)
{
    static const char *const kinds[] = {"asyncio", "uvloop", "other"};
    const struct lg_worker *w = top->workers[0];
    for (size_t i = 0; i < w->loop_count; i++) {
        const struct lg_loop_view *l = &w->loops[i];
        const struct lg_window_sum *t = &l->sum[LG_WINDOW_TOTAL];
        fprintf(out,
                " %zu  %s  thread %s%s   iterations %s   steps %s   requests %s   busy %s   "
                "blocks %s   blocked %s   longest lag %s\n",
                i, kinds[l->kind < 2 ? l->kind : 2], l->thread[0] != '\0' ? l->thread : "-",
                l->closed ? "  (closed)" : "", C(l->iterations), C(l->steps), C(t->requests),
                D(t->busy_ns), C(t->blocks), D(t->blocked_ns), D(l->max_lag_ns));
        for (uint32_t c = 0; c < LG_CAUSE_COUNT; c++) {
            fprintf(out, "%s%s %s", c == 0 ? "    " : "   ", lg_format_cause(c), D(l->parts_ns[c]));
        }
        fputc('\n', out);
    }
    if (w->loop_count == 0) {
        fprintf(out, " (none)\n");
    }
}

static void
write_pool(const struct lg_worker *w, FILE *out)
{
    const struct lg_pool_view *p = &w->pool;
    if (!p->seen) {
        return;
    }
    fprintf(
        out,
        "\n== Thread pool\n limit %s   busy %s   waiting %s   most at once %s   full %s times   "
        "done %s of %s   waited %s in all, longest %s\n",
        C(p->limit), C(p->busy), C(p->waiting), C(p->high_water), C(p->times_full), C(p->finished),
        C(p->submitted), D(p->wait_sum_ns), D(p->wait_max_ns));
    for (size_t i = 0; i < p->stuck_count; i++) {
        char name[512];
        fprintf(out, " stuck for %s: thread %u in %s\n", D(p->stuck[i].for_ns), p->stuck[i].tid,
                lg_print_prose(&p->stuck[i].key, name, sizeof(name)));
        lg_print_stack(&p->stuck[i].stack, "     ", false, out);
    }
}

static void
write_agent(const struct lg_worker *w, FILE *out)
{
    const struct lg_self *s = &w->snap->self;
    for (size_t i = 0; i < w->feature_count; i++) {
        fprintf(out, " %-16s %s%s%s\n", w->features[i].name, w->features[i].on ? "on" : "off",
                w->features[i].why[0] != '\0' ? "   " : "", w->features[i].why);
    }
    if ((w->snap->missing & 1u << LG_SEC_SELF) != 0) {
        return;
    }
#define LG_X(field, what) \
    if (s->field != 0) { \
        fprintf(out, " %-16s %14s   %s\n", #field, C(s->field), what); \
    }
    LG_SELF_COUNTERS(LG_X)
#undef LG_X
}

static void
write_rings(const struct lg_worker *w, FILE *out)
{
    for (uint32_t i = 0; i < LG_RINGS; i++) {
        const struct lg_records *r = &w->snap->rings[i];
        if (r->capacity == 0 || (r->to == 0 && !r->cursor.damaged && r->cursor.torn == 0)) {
            continue;
        }
        fprintf(out, " ring %u (%s)   %s written, %s kept%s%s\n", i,
                r->ring_class == LG_RING_RARE ? "rare" : "bulk", C(r->to), C(r->to - r->from),
                r->cursor.torn != 0 ? ", 1 torn at death" : "",
                r->cursor.damaged ? ", damaged" : "");
    }
}

/* ---- what is not whole ------------------------------------------------- */

void
lg_dump_report(const struct lg_top *top, const char *program)
{
    const struct lg_snapshot *snap = top->workers[0]->snap;
    const struct lg_geometry *geo = &snap->source.geo;
    const char *label = snap->source.label;
    if (snap->source.file_size < geo->header.segment_size) {
        fprintf(stderr, "%s: %s: cut short: %s of %s bytes\n", program, label,
                C(snap->source.file_size), C(geo->header.segment_size));
    }
    for (uint32_t kind = 1; kind < LG_MAX_SECTIONS; kind++) {
        bool cut = (snap->cut_sections & 1u << kind) != 0;
        if (cut) {
            fprintf(stderr, "%s: %s: %s at byte %s: cut, %s whole entries\n", program, label,
                    lg_dump_section(kind), C(geo->section[kind].offset),
                    C(geo->section[kind].count));
        }
        else if ((snap->missing & 1u << kind) != 0) {
            fprintf(stderr, "%s: %s: %s: not there\n", program, label, lg_dump_section(kind));
        }
    }
    size_t known = snap->fault_count < LG_MAX_FAULTS ? snap->fault_count : LG_MAX_FAULTS;
    for (size_t i = 0; i < known; i++) {
        fprintf(stderr, "%s: %s: damaged at byte %s (%s)\n", program, label,
                C(snap->faults[i].offset), snap->faults[i].what);
    }
    if (snap->fault_count > known) {
        fprintf(stderr, "%s: %s: %s more places are damaged\n", program, label,
                C(snap->fault_count - known));
    }
    uint64_t torn = 0;
    for (uint32_t i = 0; i < snap->stall_count; i++) {
        torn += snap->stall_torn[i] && snap->stalls[i].ticket != 0;
    }
    if (torn > 0) {
        fprintf(stderr, "%s: %s: %s event%s being written at the end\n", program, label, C(torn),
                torn == 1 ? " was" : "s were");
    }
    for (uint32_t i = 0; i < LG_RINGS; i++) {
        if (snap->rings[i].cursor.torn != 0) {
            fprintf(stderr, "%s: %s: ring %u: 1 record was being written at the end\n", program,
                    label, i);
        }
    }
    if (geo->skipped_sections > 0) {
        fprintf(stderr, "%s: %s: %u section%s of a newer layout skipped\n", program, label,
                geo->skipped_sections, geo->skipped_sections == 1 ? "" : "s");
    }
}
