/*
 * print_once.c - the overview as plain text; see print_once.h.
 */
#include "print_once.h"

#include <inttypes.h>
#include <string.h>

#include "../common/lg_clock.h"

static void print_title(const char *program, const struct lg_worker *w, struct lg_paint paint,
                        FILE *out);
static void print_workers(struct lg_top *top, const struct lg_view *view, struct lg_paint paint,
                          FILE *out);
static void print_worker_line(struct lg_top *top, const struct lg_worker *w,
                              const struct lg_view *view, struct lg_paint paint, FILE *out);
static void print_row(const struct lg_top *top, const struct lg_row *row, bool merged, size_t width,
                      FILE *out);
static void print_padded(const char *text, size_t width, FILE *out);
static void print_window_line(const struct lg_view *view, const struct lg_row *rows, size_t count,
                              FILE *out);
static void print_block_line(const struct lg_worker *w, FILE *out);
static void print_waiting(const struct lg_waiting *waiting, const char *indent, FILE *out);
static void print_parts(const struct lg_blocked *b, FILE *out);
static void print_event(const struct lg_top *top, const struct lg_event *e, size_t width,
                        struct lg_paint paint, FILE *out);
static const char *frame_text(const struct lg_stack_frame *f, char *out, size_t size);
static const char *quantile_note(enum lg_quantile_source source);

#define MAX_PADDED 40                   /* a longer name shifts its own line only */

#define D(ns) lg_format_duration((ns), (char[LG_TEXT]){0}, LG_TEXT)
#define W(ns) lg_format_duration_wide((ns), (char[LG_TEXT]){0}, LG_TEXT)
#define U(us) \
    lg_format_duration((us) == LG_NONE ? LG_NONE : (us) * 1000, (char[LG_TEXT]){0}, LG_TEXT)
#define C(n) lg_format_count((n), (char[LG_TEXT]){0}, LG_TEXT)
#define S(share) lg_format_share((share), (char[LG_TEXT]){0}, LG_TEXT)
#define R(rate) lg_format_rate((rate), (char[LG_TEXT]){0}, LG_TEXT)

struct lg_paint
lg_paint_for(bool color)
{
    if (!color) {
        return (struct lg_paint){"", "", "", "", ""};
    }
    return (struct lg_paint){"\033[1;31m", "\033[33m", "\033[2m", "\033[1m", "\033[0m"};
}

void
lg_print_once(struct lg_top *top, const struct lg_view *view, struct lg_paint paint, FILE *out)
{
    if (top->worker_count == 0) {
        return;
    }
    if (top->worker_count > 1) {
        print_workers(top, view, paint, out);
        lg_print_rows(top, LG_ALL_WORKERS, view, out);
        return;
    }
    lg_print_header("loopguard-top", top, 0, paint, out);
    fputc('\n', out);
    if (lg_print_blocked(top, 0, paint, out)) {
        fputc('\n', out);
    }
    lg_print_rows(top, 0, view, out);
}

void
lg_print_header(const char *program, struct lg_top *top, size_t worker, struct lg_paint paint,
                FILE *out)
{
    const struct lg_worker *w = top->workers[worker];
    const struct lg_window_sum *recent = &w->sum[LG_WINDOW_10S];
    const struct lg_window_sum *total = &w->sum[LG_WINDOW_TOTAL];
    char when[LG_TEXT];
    print_title(program, w, paint, out);
    const struct lg_quantiles *lag =
        recent->lag.source != LG_QUANTILE_NONE ? &recent->lag : &total->lag;
    fprintf(out, " Lag    %s %s%s   p50 %s   p90 %s   p99 %s%s   max %s",
            w->post_mortem ? "last" : "now", D(w->lag_now_ns), w->lag_high ? "!" : "",
            U(lag->p50_us), U(lag->p90_us), U(lag->p99_us),
            lag->source == LG_QUANTILE_TOTAL && lag->p50_us != LG_NONE ? " since start" : "",
            D(w->max_lag_ns));
    if (w->max_lag_real_ns != 0) {
        fprintf(out, " (%s)",
                lg_format_clock(w->max_lag_real_ns, w->post_mortem ? 0 : top->now_real_ns, false,
                                when, sizeof(when)));
    }
    fputc('\n', out);
    if (w->post_mortem) {
        fprintf(out, " Loop   (stopped)   last heartbeat %s   written by agent %s\n",
                lg_format_clock(w->heartbeat_real_ns, 0, true, when, sizeof(when)),
                w->agent[0] != '\0' ? w->agent : "-");
    }
    else {
        fprintf(out, " Loop   busy %s   %s req/s   %s open   %s tasks   %s\n",
                S(recent->busy_share), R(recent->requests_per_s), C(w->open_requests), C(w->tasks),
                w->loop_kinds[0] != '\0' ? w->loop_kinds : "no loop yet");
    }
    print_block_line(w, out);
    if (w->message[0] != '\0') {
        fprintf(out, " %s%s%s\n", paint.warn, w->message, paint.off);
    }
    for (size_t i = 0; i < w->feature_count; i++) {
        if (!w->features[i].on) {
            fprintf(out, " Off    %s%s%s\n", w->features[i].name,
                    w->features[i].why[0] != '\0' ? ": " : "", w->features[i].why);
        }
    }
    if (w->pool.seen && (w->pool.waiting > 0 || w->pool.full_for_ns != LG_NONE)) {
        fprintf(out, " Pool   %s%s of %s threads busy, %s waiting%s\n", paint.warn, C(w->pool.busy),
                C(w->pool.limit), C(w->pool.waiting), paint.off);
    }
}

static void
print_title(const char *program, const struct lg_worker *w, struct lg_paint paint, FILE *out)
{
    char state[64];
    char age[LG_TEXT];
    switch (w->state) {
    case LG_WORKER_LIVE:
        snprintf(state, sizeof(state), "LIVE");
        break;
    case LG_WORKER_STALE:
        snprintf(state, sizeof(state), "STALE %s",
                 lg_format_age_short(w->heartbeat_age_ns, age, sizeof(age)));
        break;
    case LG_WORKER_EXITED:
        snprintf(state, sizeof(state), "EXITED %s",
                 lg_format_clock(w->ended_real_ns, 0, false, age, sizeof(age)));
        break;
    case LG_WORKER_DEAD:
        snprintf(state, sizeof(state), "POST-MORTEM");
        break;
    case LG_WORKER_CUT:
        snprintf(state, sizeof(state), "FILE CUT");
        break;
    default:
        snprintf(state, sizeof(state), "AGENT OFF");
        break;
    }
    fprintf(out, " %s%s%s  %s  %s   python %s   %s %s   agent %s   %s%s%s\n", paint.bold, program,
            paint.off, w->label, w->app[0] != '\0' ? w->app : "-", w->python,
            w->post_mortem ? "ran" : "up", lg_format_uptime(w->up_ns, (char[LG_TEXT]){0}, LG_TEXT),
            w->agent[0] != '\0' ? w->agent : "-", paint.bold, state, paint.off);
}

static void
print_block_line(const struct lg_worker *w, FILE *out)
{
    const struct lg_window_sum *s = w->sum;
    if (w->post_mortem) {
        fprintf(out,
                " Block  last minute %s   total %s   blocked last minute %s (%s)   total %s (%s)   "
                "lost events %s\n",
                C(s[LG_WINDOW_1M].blocks), C(s[LG_WINDOW_TOTAL].blocks),
                D(s[LG_WINDOW_1M].blocked_ns), S(s[LG_WINDOW_1M].blocked_share),
                D(s[LG_WINDOW_TOTAL].blocked_ns), S(s[LG_WINDOW_TOTAL].blocked_share),
                C(w->lost_events));
        return;
    }
    fprintf(out,
            " Block  10s %s   1m %s   5m %s   total %s   blocked 10s %s (%s)   1m %s (%s)   "
            "5m %s (%s)   lost events %s\n",
            C(s[LG_WINDOW_10S].blocks), C(s[LG_WINDOW_1M].blocks), C(s[LG_WINDOW_5M].blocks),
            C(s[LG_WINDOW_TOTAL].blocks), D(s[LG_WINDOW_10S].blocked_ns),
            S(s[LG_WINDOW_10S].blocked_share), D(s[LG_WINDOW_1M].blocked_ns),
            S(s[LG_WINDOW_1M].blocked_share), D(s[LG_WINDOW_5M].blocked_ns),
            S(s[LG_WINDOW_5M].blocked_share), C(w->lost_events));
}

bool
lg_print_blocked(struct lg_top *top, size_t worker, struct lg_paint paint, FILE *out)
{
    const struct lg_worker *w = top->workers[worker];
    const struct lg_blocked *b = &w->blocked;
    char name[512];
    char when[LG_TEXT];
    if (!b->active && !b->at_death) {
        if (w->state == LG_WORKER_STALE) {
            fprintf(out, "%sNO HEARTBEAT %s%s\n", paint.alarm, W(w->heartbeat_age_ns), paint.off);
            return true;
        }
        return false;
    }
    lg_print_prose(&b->key, name, sizeof(name));
    if (b->active) {
        fprintf(out, "%sBLOCKED %s%s  %s\n", paint.alarm, W(b->for_ns), paint.off, name);
    }
    else if (b->torn) {
        fprintf(out,
                "%sDIED%s %s  while its present step was being written; what it ran is not "
                "known for sure (perhaps %s)\n",
                paint.alarm, paint.off,
                lg_format_clock(w->ended_real_ns, 0, true, when, sizeof(when)), name);
    }
    else {
        fprintf(out, "%sDIED%s %s  while in %s, %s into the %s\n", paint.alarm, paint.off,
                lg_format_clock(w->ended_real_ns, 0, true, when, sizeof(when)), name,
                b->for_ns == 0 ? "0 s" : W(b->for_ns),
                b->kind == LG_STALL_ITERATION ? "iteration" : "step");
    }
    fprintf(out, "  threshold %s", W(b->threshold_ns));
    if (b->request_id != 0) {
        fprintf(out, "   request %08x", b->request_id);
    }
    if (b->task[0] != '\0') {
        fprintf(out, "   task %s", b->task);
    }
    if (b->thread[0] != '\0' || b->tid != 0) {
        fprintf(out, "   thread %s", b->thread[0] != '\0' ? b->thread : "?");
        if (b->tid != 0) {
            fprintf(out, " (native %u)", b->tid);
        }
    }
    fputc('\n', out);
    if (b->cause != LG_CAUSE_UNKNOWN || b->call[0] != '\0') {
        fprintf(out, "  cause %s", lg_format_cause(b->cause));
        if (b->call[0] != '\0') {
            fprintf(out, "   call %s%s%s", b->call, b->call_ns != LG_NONE ? "  " : "",
                    b->call_ns != LG_NONE ? W(b->call_ns) : "");
        }
        fputc('\n', out);
    }
    print_parts(b, out);
    if (b->stack.depth > 0) {
        fprintf(out, "  stack, innermost first");
        if (b->samples != LG_NONE && b->samples > 0) {
            fprintf(out, ", seen %s times", C(b->samples));
        }
        fprintf(out, "%s\n", b->stack.moving ? ", its leaf changes" : "");
        lg_print_stack(&b->stack, "    ", true, out);
    }
    else {
        fprintf(out, "  no stack was taken\n");
    }
    if (b->holder_stack.depth > 0) {
        fprintf(out, "  the GIL is held by");
        if (b->holder.name != NULL) {
            fprintf(out, " %s", lg_print_prose(&b->holder, name, sizeof(name)));
        }
        fprintf(out, "\n");
        lg_print_stack(&b->holder_stack, "    ", true, out);
    }
    print_waiting(&b->waiting, "  ", out);
    return true;
}

static void
print_parts(const struct lg_blocked *b, FILE *out)
{
    bool any = false;
    for (size_t i = 0; i < LG_CAUSE_COUNT; i++) {
        if (b->parts_ns[i] != LG_NONE && b->parts_ns[i] != 0) {
            fprintf(out, "%s%s %s", any ? "   " : "  time  ", lg_format_cause((uint32_t)i),
                    D(b->parts_ns[i]));
            any = true;
        }
    }
    if (any) {
        fputc('\n', out);
    }
}

static void
print_waiting(const struct lg_waiting *waiting, const char *indent, FILE *out)
{
    if (waiting->requests == LG_NONE || waiting->requests == 0) {
        return;
    }
    fprintf(out, "%sbehind it: %s request%s", indent, C(waiting->requests),
            waiting->requests == 1 ? "" : "s");
    if (waiting->longest_ns != LG_NONE && waiting->longest_ns != 0) {
        fprintf(out, ", longest %s", W(waiting->longest_ns));
    }
    for (size_t i = 0; i < waiting->endpoint_count; i++) {
        char name[512];
        fprintf(out, "%s %sx %s", i == 0 ? ":" : ",", C(waiting->endpoint[i].requests),
                lg_print_prose(&waiting->endpoint[i].key, name, sizeof(name)));
    }
    fputc('\n', out);
}

void
lg_print_stack(const struct lg_stack_view *stack, const char *indent, bool fold, FILE *out)
{
    bool user = false;
    uint32_t end = 0;
    for (uint32_t i = 0; i < stack->depth; i++) {
        if (stack->frame[i].endpoint) {
            end = i + 1;
        }
        user = user || stack->frame[i].origin == LG_ORIGIN_USER;
    }
    /* Beyond the endpoint's own function it is framework, at each block the
     * same: one line for all of it. */
    uint32_t shown = fold && end > 0 ? end : stack->depth;
    bool first_user = true;
    for (uint32_t i = 0; i < shown; i++) {
        const struct lg_stack_frame *f = &stack->frame[i];
        const char *mark = "";
        if (f->endpoint && f->origin == LG_ORIGIN_USER) {
            mark = i == 0 ? "  < your code" : "  < endpoint";
        }
        else if (f->origin == LG_ORIGIN_USER && first_user) {
            mark = "  < your code";
        }
        first_user = first_user && f->origin != LG_ORIGIN_USER;
        fprintf(out, "%s#%-2u %-24s %s:%u%s\n", indent, i,
                f->function[0] != '\0' ? f->function : "?",
                f->short_file[0] != '\0' ? f->short_file : "?", f->line, mark);
    }
    if (shown < stack->depth) {
        uint32_t folded = stack->depth - shown;
        fprintf(out, "%s... %u frame%s of the framework folded\n", indent, folded,
                folded == 1 ? "" : "s");
    }
    if (stack->damaged) {
        fprintf(out, "%s(the rest of this stack is damaged)\n", indent);
    }
}

static void
print_workers(struct lg_top *top, const struct lg_view *view, struct lg_paint paint, FILE *out)
{
    struct lg_window_sum sum;
    lg_top_sum(top, LG_ALL_WORKERS, LG_WINDOW_1M, &sum);
    const struct lg_worker *first = top->workers[0];
    fprintf(out, " %sloopguard-top%s  %zu workers", paint.bold, paint.off, top->worker_count);
    if (top->parent > 0) {
        fprintf(out, " of %s (parent %d)", first->app, (int)top->parent);
    }
    fprintf(out, "\n Sum    %s req/s   %s blocks/1m   %s blocked/1m\n\n", R(sum.requests_per_s),
            C(sum.blocks), D(sum.blocked_ns));
    fprintf(out,
            "     PID  STATE   UP            LAG NOW   LAG MAX   BUSY  BLK 1m  BLKD 1m    "
            "REQ/S  APP                       NOTE\n");
    for (size_t i = 0; i < top->worker_count; i++) {
        const struct lg_worker *w = top->workers[i];
        if (!view->hide_dead || !w->post_mortem) {
            print_worker_line(top, w, view, paint, out);
        }
    }
    fputc('\n', out);
    for (size_t i = 0; i < top->worker_count; i++) {
        if (top->workers[i]->blocked.active) {
            fprintf(out, "%s: ", top->workers[i]->label);
            lg_print_blocked(top, i, paint, out);
            fputc('\n', out);
        }
    }
}

static void
print_worker_line(struct lg_top *top, const struct lg_worker *w, const struct lg_view *view,
                  struct lg_paint paint, FILE *out)
{
    const struct lg_window_sum *s = &w->sum[LG_WINDOW_1M];
    char lag[LG_TEXT];
    (void)top;
    (void)view;
    snprintf(lag, sizeof(lag), "%s%s", w->post_mortem ? "-" : D(w->lag_now_ns),
             w->lag_high && !w->post_mortem ? "!" : "");
    fprintf(out, "%8s  %-6s  %-12s %8s  %8s  %5s  %6s  %7s  %7s  %-24s  %s%s%s\n", w->label,
            lg_worker_state_text(w->state), lg_format_uptime(w->up_ns, (char[LG_TEXT]){0}, LG_TEXT),
            lag, D(w->max_lag_ns), w->post_mortem ? "-" : S(s->busy_share), C(s->blocks),
            D(s->blocked_ns), w->post_mortem ? "-" : R(s->requests_per_s), w->app,
            w->blocked.active ? paint.alarm : "", w->note, paint.off);
}

void
lg_print_rows(struct lg_top *top, size_t worker, const struct lg_view *view, FILE *out)
{
    const struct lg_row *rows;
    size_t count = lg_top_rows(top, worker, view, &rows);
    bool merged = worker == LG_ALL_WORKERS;
    char threshold[LG_TEXT + 4];
    char ms[LG_TEXT];
    uint64_t in_force = top->worker_count > 0 ? top->workers[merged ? 0 : worker]->threshold_ns : 0;
    snprintf(threshold, sizeof(threshold), "N>%s", lg_format_ms(in_force, ms, sizeof(ms)));
    size_t width = sizeof("ENDPOINT") - 1;
    for (size_t i = 0; i < count; i++) {
        char name[512];
        size_t columns = lg_format_columns(lg_print_name(&rows[i].key, name, sizeof(name)));
        width = columns > width && columns <= MAX_PADDED ? columns : width;
    }
    print_window_line(view, rows, count, out);
    fprintf(out, " %8s  %6s  %6s  %7s  %8s  %7s  %7s  %7s  %6s  %4s  %s", "BLOCKED", "%LOOP",
            threshold, "N TOTAL", "MAX", "P99", "P90", "P50", "REQ/S", "OPEN",
            merged ? "WORST-PID  " : "");
    print_padded("ENDPOINT", width, out);
    fputs("  WORST FRAME\n", out);
    for (size_t i = 0; i < count; i++) {
        print_row(top, &rows[i], merged, width, out);
    }
    if (count == 0) {
        fprintf(out, " (no endpoint%s)\n",
                view->filter != NULL && view->filter[0] != '\0' ? " matches" : " seen yet");
    }
}

static void
print_window_line(const struct lg_view *view, const struct lg_row *rows, size_t count, FILE *out)
{
    bool filtered = view->filter != NULL && view->filter[0] != '\0';
    fprintf(out, " Window %s   sort %s%s   filter %s   %zu row%s%s\n", lg_window_text(view->window),
            lg_sort_heading(view->sort), view->reverse ? " reversed" : "",
            filtered ? view->filter : "(none)", count, count == 1 ? "" : "s",
            count > 0 ? quantile_note(rows[0].now.step.source) : "");
}

/* Where P50, P90 and P99 come from; nothing when they are what one expects. */
static const char *
quantile_note(enum lg_quantile_source source)
{
    switch (source) {
    case LG_QUANTILE_RECORDS:
        return "   (P50-P99: longest step of each request)";
    case LG_QUANTILE_NONE:
        return "   (P50-P99: not known yet for this window)";
    default:
        return "";
    }
}

static void
print_row(const struct lg_top *top, const struct lg_row *row, bool merged, size_t width, FILE *out)
{
    const struct lg_figures *f = &row->now;
    char max[LG_TEXT + 2];
    char name[512];
    char frame[512] = "";
    char pid[16] = "";
    snprintf(max, sizeof(max), "%s%s", D(f->max_ns), row->running ? "*" : "");
    if (row->worst_frame != NULL) {
        frame_text(row->worst_frame, frame, sizeof(frame));
    }
    if (merged) {
        snprintf(pid, sizeof(pid), "%9s  ",
                 f->blocked_ns != 0 ? top->workers[row->worst_worker]->label : "-");
    }
    fprintf(out, " %8s  %6s  %6s  %7s  %8s  %7s  %7s  %7s  %6s  %4s  %s", D(f->blocked_ns),
            S(f->loop_share), C(f->blocks), C(row->total_blocks), max, U(f->step.p99_us),
            U(f->step.p90_us), U(f->step.p50_us),
            row->key.kind == LG_KIND_REQUEST || f->requests > 0 ? R(f->requests_per_s) : "-",
            row->key.kind == LG_KIND_REQUEST || row->open > 0 ? C(row->open) : "-", pid);
    lg_print_name(&row->key, name, sizeof(name));
    if (frame[0] == '\0') {
        fprintf(out, "%s\n", name);
        return;
    }
    print_padded(name, width, out);
    fprintf(out, "  %s\n", frame);
}

/* printf's own width counts bytes, not columns. */
static void
print_padded(const char *text, size_t width, FILE *out)
{
    fputs(text, out);
    for (size_t n = lg_format_columns(text); n < width; n++) {
        fputc(' ', out);
    }
}

void
lg_print_events(struct lg_top *top, const struct lg_view *view, struct lg_paint paint, FILE *out)
{
    const struct lg_event *events;
    uint64_t seen;
    uint64_t kept;
    uint64_t lost;
    size_t count = lg_top_events(top, LG_ALL_WORKERS, view, &events);
    lg_top_event_counts(top, LG_ALL_WORKERS, &seen, &kept, &lost);
    fprintf(out, " Events   %s seen, newest %s kept, %s lost", C(seen), C(kept), C(lost));
    if (top->worker_count == 1) {
        fprintf(out, "   worker %s", top->workers[0]->label);
    }
    size_t most = view->top != 0 && view->top < count ? view->top : count;
    size_t width = sizeof("ENDPOINT") - 1;
    for (size_t i = 0; i < most; i++) {
        char name[512];
        size_t columns = lg_format_columns(lg_print_name(&events[i].key, name, sizeof(name)));
        width = columns > width && columns <= MAX_PADDED ? columns : width;
    }
    fprintf(out, "\n TIME          %s BLOCKED  WAITED  CAUSE       REQUEST   ",
            top->worker_count > 1 ? "    PID  " : "");
    print_padded("ENDPOINT", width, out);
    fputs("  INNERMOST FRAME, YOUR CODE\n", out);
    for (size_t i = 0; i < most; i++) {
        print_event(top, &events[i], width, paint, out);
    }
}

static void
print_event(const struct lg_top *top, const struct lg_event *e, size_t width, struct lg_paint paint,
            FILE *out)
{
    char when[LG_TEXT];
    char name[512];
    char inner[512];
    char user[512];
    char duration[LG_TEXT + 2];
    char request[16];
    char pid[16] = "";
    lg_format_clock(e->real_ns, 0, true, when, sizeof(when));
    if (top->worker_count > 1) {
        snprintf(pid, sizeof(pid), "%7s  ", top->workers[e->worker]->label);
    }
    if (e->kind == LG_EVENT_MARK) {
        fprintf(out, " %s%s  %s--  %s%s\n", paint.dim, when, pid, e->mark, paint.off);
        return;
    }
    snprintf(duration, sizeof(duration), "%s%s", D(e->duration_ns), e->ongoing ? "+" : "");
    snprintf(request, sizeof(request), "%08x", e->request_id);
    bool iteration = e->kind == LG_STALL_ITERATION;
    bool cumulative = e->kind == LG_STALL_CUMULATIVE;
    fprintf(out, " %s  %s%s%8s%s  %6s  %-10s  %-8s  ", when, pid, e->ongoing ? paint.alarm : "",
            duration, paint.off, C(e->waited_requests), lg_format_cause(e->cause),
            e->request_id != 0 ? request : "-");
    print_padded(lg_print_name(&e->key, name, sizeof(name)), width, out);
    if (iteration || cumulative) {
        fprintf(out, "  (%s)", lg_format_stall_kind(e->kind));
    }
    if (e->innermost != NULL) {
        fprintf(out, "  %s", frame_text(e->innermost, inner, sizeof(inner)));
    }
    if (e->user != NULL && e->user != e->innermost) {
        fprintf(out, " < %s", frame_text(e->user, user, sizeof(user)));
    }
    fprintf(out, "%s\n", e->torn ? "  (incomplete)" : "");
}

char *
lg_print_prose(const struct lg_key *key, char *out, size_t size)
{
    const char *label = lg_format_label(key->kind, key->method, key->name);
    const char *name = key->name != NULL ? key->name : "";
    if (key->kind == LG_KIND_LOOP && name[0] == '\0') {
        name = "idle/other";
    }
    snprintf(out, size, "%s%s%s", label, label[0] != '\0' && name[0] != '\0' ? " " : "", name);
    return out;
}

char *
lg_print_name(const struct lg_key *key, char *out, size_t size)
{
    const char *label = lg_format_label(key->kind, key->method, key->name);
    const char *name = key->name != NULL ? key->name : "";
    if (key->kind == LG_KIND_REQUEST && label[0] != '\0') {
        snprintf(out, size, "%-5s %s", label, name);
        return out;
    }
    return lg_print_prose(key, out, size);
}

static const char *
frame_text(const struct lg_stack_frame *f, char *out, size_t size)
{
    snprintf(out, size, "%s %s:%u", f->function, f->short_file, f->line);
    return out;
}
