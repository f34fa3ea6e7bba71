/*
 * screen_workers.c - all workers of an application, and their endpoints
 * merged. The cursor is in the upper table.
 */
#include <inttypes.h>
#include <string.h>

#include "screen_parts.h"

static void draw_heading(struct lg_screen *s, int row);
static void draw_worker(struct lg_screen *s, int row, const struct lg_worker *worker,
                        bool selected);
static void draw_note(struct lg_screen *s, int row, const struct lg_worker *worker);
static size_t shown_workers(const struct lg_screen *s, const struct lg_worker **out, size_t room);
static const struct lg_worker *selected_worker(const struct lg_screen *s);
static char *percent(double share, char *out, size_t size);

#define WORKERS_MAX 512                 /* rows that this screen can scroll through */

void
lg_screen_workers(struct lg_screen *s)
{
    const struct lg_worker *workers[WORKERS_MAX];
    struct lg_list *list = &s->list[LG_PAGE_WORKERS];
    int height = s->canvas.rows;
    bool wide = lg_screen_wide(s);
    size_t count = shown_workers(s, workers, WORKERS_MAX);
    int banner = lg_screen_banner_row(s);
    int heading = banner + (wide && height >= LG_TALL ? 2 : 1);
    int foot = height >= 10 ? 2 : 1;
    /* Both tables: the workers get what they need, up to half. */
    int room = height - heading - 1 - foot;
    int rows = (int)count < room / 2 ? (int)count : room / 2;
    rows = room - rows < 4 || height < 12 ? room : rows;
    rows = rows > (int)count && height >= 12 ? (int)count : rows;
    lg_list_fit(list, count, heading + 1, rows);
    lg_screen_workers_title(s);
    if (banner == 2) {
        lg_screen_workers_sum(s, 1);
    }
    lg_screen_banner(s, banner);
    draw_heading(s, heading);
    for (size_t i = 0; i < list->visible && list->first + i < count; i++) {
        size_t at = list->first + i;
        draw_worker(s, heading + 1 + (int)i, workers[at], at == list->at);
    }
    if (height >= 12) {
        lg_screen_merged_rows(s, heading + 2 + rows, height - foot);
    }
    if (foot == 2 && list->at < count) {
        draw_note(s, height - 2, workers[list->at]);
    }
    lg_screen_bottom(
        s, wide ? "?Help  Enter One worker  [ ] Prev/next  m Merge  x Hide dead  e Events of all"
                  "  b Blocked now  / Search  & Filter  s Sort   q Quit"
                : "?Help  Enter One worker  [ ] Prev/next  m Merge on/off  x Hide dead  q Quit");
}

static size_t
shown_workers(const struct lg_screen *s, const struct lg_worker **out, size_t room)
{
    size_t count = 0;
    for (size_t i = 0; i < s->top->worker_count && count < room; i++) {
        const struct lg_worker *worker = s->top->workers[i];
        if (!s->view.hide_dead || !worker->post_mortem) {
            out[count++] = worker;
        }
    }
    return count;
}

void
lg_screen_workers_title(struct lg_screen *s)
{
    char left[LG_LINE_MAX];
    char parent[64] = "";
    const struct lg_top *top = s->top;
    const char *app = top->worker_count > 0 ? top->workers[0]->app : "";
    for (size_t i = 1; i < top->worker_count; i++) {
        if (strcmp(top->workers[i]->app, app) != 0) {
            app = "several applications";
        }
    }
    if (top->parent != 0) {
        snprintf(parent, sizeof(parent), lg_screen_wide(s) ? "   parent %d" : " (parent %d)",
                 (int)top->parent);
    }
    snprintf(left, sizeof(left),
             lg_screen_wide(s) ? " loopguard-top   %zu worker%s of %.200s%s"
                               : " loopguard-top  %zu worker%s of %.200s%s",
             top->worker_count, top->worker_count == 1 ? "" : "s", app, parent);
    lg_screen_title(s, 0, left);
}

void
lg_screen_workers_sum(struct lg_screen *s, int row)
{
    struct lg_window_sum sum;
    char rate[LG_TEXT];
    char blocks[LG_TEXT];
    char blocked[LG_TEXT];
    char lag[LG_TEXT];
    char text[LG_LINE_MAX];
    uint64_t worst = 0;
    const char *who = "-";
    size_t now = 0;
    size_t stale = 0;
    size_t dead = 0;
    lg_top_sum(s->top, LG_ALL_WORKERS, LG_WINDOW_1M, &sum);
    for (size_t i = 0; i < s->top->worker_count; i++) {
        const struct lg_worker *w = s->top->workers[i];
        now += w->blocked.active;
        stale += w->state == LG_WORKER_STALE;
        dead += w->post_mortem;
        if (!w->post_mortem && w->lag_now_ns != LG_NONE && w->lag_now_ns > worst) {
            worst = w->lag_now_ns;
            who = w->label;
        }
    }
    int n =
        snprintf(text, sizeof(text),
                 "Sum    %s req/s   %s blocks/1m   %s blocked/1m   worst lag %s%s (%.64s)",
                 lg_format_rate(sum.requests_per_s, rate, sizeof(rate)),
                 lg_format_count(sum.blocks, blocks, sizeof(blocks)),
                 lg_format_duration(sum.blocked_ns, blocked, sizeof(blocked)),
                 lg_screen_wide(s) ? "now " : "", lg_format_duration(worst, lag, sizeof(lag)), who);
    if (lg_screen_wide(s) && n > 0) {
        snprintf(text + n, sizeof(text) - (size_t)n, "   %zu blocked now   %zu stale   %zu dead",
                 now, stale, dead);
    }
    lg_canvas_field(&s->canvas, row, 1, s->canvas.columns - 2, LG_STYLE_NORMAL, text);
}

static void
draw_heading(struct lg_screen *s, int row)
{
    struct lg_canvas *c = &s->canvas;
    lg_canvas_fill(c, row, 0, c->columns, LG_STYLE_HEADING, " ");
    lg_canvas_put(c, row, 2, LG_STYLE_HEADING,
                  lg_screen_wide(s)
                      ? "PID     STATE   UP        LAG NOW   LAG P99  BUSY                 "
                        "BLK 1m BLKD 1m  MAX 1m  REQ/S  LAG 60s                  NOTE"
                      : "PID    STATE  UP     LAG NOW   BUSY BLK1m  BLKD1m REQ/S  NOW / NOTE");
}

static void
draw_worker(struct lg_screen *s, int row, const struct lg_worker *w, bool selected)
{
    struct lg_canvas *c = &s->canvas;
    const struct lg_window_sum *sum = &w->sum[w->post_mortem ? LG_WINDOW_TOTAL : LG_WINDOW_1M];
    bool wide = lg_screen_wide(s);
    bool silent = w->state == LG_WORKER_STALE;
    char text[LG_NAME_MAX + 40];
    char up[LG_TEXT];
    enum lg_style state = w->state == LG_WORKER_LIVE ? LG_STYLE_GOOD
                          : silent                   ? LG_STYLE_WARNING
                                                     : LG_STYLE_DIM;
    lg_canvas_field(c, row, 2, wide ? 8 : 7, LG_STYLE_NORMAL, w->label);
    lg_canvas_field(c, row, wide ? 10 : 9, 7, state, lg_worker_state_text(w->state));
    lg_format_uptime(w->up_ns, up, sizeof(up));
    /* Hours and minutes are enough on a narrow line; days in any case. */
    lg_canvas_field(c, row, wide ? 18 : 16,
                    wide                  ? 9
                    : (int)strlen(up) > 8 ? 6
                                          : 5,
                    LG_STYLE_NORMAL, up);
    if (!wide && strlen(up) == 8) {
        lg_canvas_put(c, row, 20, LG_STYLE_NORMAL, (char[]){up[4], ' ', '\0'});
    }
    int at = wide ? 27 : 21;
    lg_format_duration(w->lag_now_ns, text, sizeof(text));
    enum lg_style lag = lg_screen_duration_style(w->lag_now_ns, w->threshold_ns);
    at = lg_canvas_field_right(c, row, at, 8, lag, silent ? "?" : w->post_mortem ? "-" : text);
    lg_canvas_put(c, row, at, lag, w->lag_high && !silent && !w->post_mortem ? "!" : " ");
    at++;
    if (wide) {
        /* Just attached: what is known is the whole life. */
        bool known = sum->lag.source != LG_QUANTILE_NONE;
        const struct lg_quantiles *q = known ? &sum->lag : &w->sum[LG_WINDOW_TOTAL].lag;
        lg_screen_us_text(q->p99_us, text, sizeof(text));
        at = lg_canvas_field_right(c, row, at, 9, known ? LG_STYLE_NORMAL : LG_STYLE_DIM, text);
        percent(sum->busy_share, text, sizeof(text));
        at = lg_canvas_field_right(c, row, at, 5, LG_STYLE_NORMAL,
                                   silent           ? "?"
                                   : w->post_mortem ? "-"
                                                    : text);
        if (!w->post_mortem) {
            lg_screen_bar(s, row, at + 1, 14, silent ? 0 : sum->busy_share);
        }
        at += 17;
    }
    else {
        percent(sum->busy_share, text, sizeof(text));
        at = lg_canvas_field_right(c, row, at, 7, LG_STYLE_NORMAL,
                                   silent           ? "?"
                                   : w->post_mortem ? "-"
                                                    : text);
    }
    lg_format_count(sum->blocks, text, sizeof(text));
    at = lg_canvas_field_right(c, row, at, 6, LG_STYLE_NORMAL, text);
    lg_format_duration(sum->blocked_ns, text, sizeof(text));
    at = lg_canvas_field_right(c, row, at, 8, LG_STYLE_NORMAL, text);
    if (wide) {
        lg_format_duration(sum->max_lag_ns, text, sizeof(text));
        at = lg_canvas_field_right(c, row, at, 8, LG_STYLE_NORMAL, text);
    }
    lg_format_rate(sum->requests_per_s, text, sizeof(text));
    at = lg_canvas_field_right(c, row, at, wide ? 7 : 6, LG_STYLE_NORMAL,
                               silent           ? "?"
                               : w->post_mortem ? "-"
                                                : text) +
         2;
    if (wide) {
        if (!w->post_mortem) {
            lg_screen_spark(s, row, at, 22, w->series_lag_ns, LG_SERIES);
        }
        at += 25;
    }
    if (w->blocked.active) {
        lg_screen_key_text(&w->blocked.key, 0, text, sizeof(text));
    }
    else {
        snprintf(text, sizeof(text), "%s", w->note[0] != '\0' ? w->note : wide ? "" : "-");
    }
    lg_canvas_field(c, row, at, c->columns - at,
                    w->blocked.active ? LG_STYLE_WARNING : LG_STYLE_NORMAL,
                    w->blocked.active && wide ? "blocked now" : text);
    if (selected) {
        lg_canvas_put(c, row, 0, LG_STYLE_BOLD, ">");
        lg_canvas_restyle(c, row, 0, c->columns, LG_STYLE_SELECTED);
    }
}

/* " 41210: heartbeat 6.0 s old. The process exists and is stopped (state T)." */
static void
draw_note(struct lg_screen *s, int row, const struct lg_worker *w)
{
    char text[LG_LINE_MAX];
    char age[LG_TEXT];
    if (w->state == LG_WORKER_STALE) {
        const char *why = w->process_state == 'T' || w->process_state == 't'
                              ? "The process exists and is stopped (state T)."
                          : w->process_state == 'D'
                              ? "The process is in uninterruptible sleep (D)."
                              : "The process runs, but the agent thread is silent.";
        snprintf(text, sizeof(text), "%.64s: heartbeat %s old. %s", w->label,
                 lg_format_duration_wide(w->heartbeat_age_ns, age, sizeof(age)), why);
    }
    else if (w->message[0] != '\0') {
        snprintf(text, sizeof(text), "%.64s: %.320s", w->label, w->message);
    }
    else {
        snprintf(text, sizeof(text), "%.64s: %.200s%s%.160s", w->label, w->app,
                 w->note[0] != '\0' ? "   " : "", w->note);
    }
    lg_canvas_field(&s->canvas, row, 1, s->canvas.columns - 2, LG_STYLE_NORMAL, text);
}

/* ---- merged rows ------------------------------------------------------- */

#define EACH_WORKER_MAX 4               /* columns with a worker's own blocked time */

void
lg_screen_merged_rows(struct lg_screen *s, int row, int end)
{
    const struct lg_row *rows;
    struct lg_canvas *c = &s->canvas;
    bool wide = lg_screen_wide(s);
    char text[LG_NAME_MAX + 40];
    char time[LG_TEXT];
    size_t live = 0;
    size_t each[EACH_WORKER_MAX];
    size_t each_count = 0;
    for (size_t i = 0; i < s->top->worker_count; i++) {
        if (!s->top->workers[i]->post_mortem) {
            live++;
            if (each_count < EACH_WORKER_MAX) {
                each[each_count++] = i;
            }
        }
    }
    const struct lg_worker *one = s->one_by_one ? selected_worker(s) : NULL;
    size_t index = LG_ALL_WORKERS;
    for (size_t i = 0; i < s->top->worker_count; i++) {
        index = s->top->workers[i] == one ? i : index;
    }
    struct lg_view view = s->view;
    view.merge = one == NULL;
    size_t count = lg_top_rows(s->top, index, &view, &rows);
    if (row >= end) {
        return;
    }
    int at = lg_screen_windows(s, row, 1);
    if (one != NULL) {
        snprintf(text, sizeof(text), "of %.64s (m: merged)", one->label);
    }
    else {
        snprintf(text, sizeof(text), "merged over %zu live worker%s", live, live == 1 ? "" : "s");
    }
    if (wide) {
        bool filtered = view.filter != NULL && view.filter[0] != '\0';
        lg_canvas_put(c, row, at + 8, LG_STYLE_NORMAL, text);
        snprintf(text, sizeof(text), "sort %s        filter %.40s", lg_sort_heading(view.sort),
                 filtered ? view.filter : "(none)");
    }
    lg_canvas_right(c, row, c->columns - 1, LG_STYLE_NORMAL, text);
    row++;
    lg_canvas_fill(c, row, 0, c->columns, LG_STYLE_HEADING, " ");
    int head = lg_canvas_printf(c, row, 2, LG_STYLE_HEADING,
                                wide ? " BLOCKED%s  %%LOOP %5s      MAX      P99      P90"
                                       "      P50    REQ/S"
                                     : "BLOCKED%s WORST-PID %5s     MAX      P99     P50   REQ/S",
                                s->glyphs->one[LG_GLYPH_DESCENDING],
                                lg_screen_threshold_heading(s, time, sizeof(time)));
    for (size_t i = 0; wide && i < each_count; i++) {
        head = lg_canvas_field_right(c, row, head, 8, LG_STYLE_HEADING,
                                     s->top->workers[each[i]]->label);
    }
    lg_canvas_put(c, row, head + 2, LG_STYLE_HEADING, "ENDPOINT");
    row++;
    for (size_t i = 0; i < count && row < end; i++, row++) {
        const struct lg_row *r = &rows[i];
        const struct lg_figures *f = &r->now;
        bool known = f->step.source != LG_QUANTILE_NONE;
        at = lg_canvas_field_right(c, row, 0, wide ? 10 : 9, LG_STYLE_BOLD,
                                   lg_format_duration(f->blocked_ns, time, sizeof(time)));
        if (wide) {
            at = lg_canvas_field_right(c, row, at, 8, LG_STYLE_NORMAL,
                                       lg_format_share(f->loop_share, time, sizeof(time)));
        }
        else {
            at = lg_canvas_field_right(c, row, at, 11, LG_STYLE_NORMAL,
                                       f->blocked_ns > 0 && r->worst_worker < s->top->worker_count
                                           ? s->top->workers[r->worst_worker]->label
                                           : "-");
        }
        at = lg_canvas_field_right(c, row, at, 6, LG_STYLE_NORMAL,
                                   lg_format_count(f->blocks, time, sizeof(time)));
        lg_format_duration(f->max_ns == 0 ? LG_NONE : f->max_ns, time, sizeof(time));
        at = lg_canvas_field_right(c, row, at, wide ? 9 : 8,
                                   lg_screen_duration_style(f->max_ns, r->threshold_ns), time);
        lg_format_duration(known && f->step.p99_us != LG_NONE ? f->step.p99_us * 1000 : LG_NONE,
                           time, sizeof(time));
        at = lg_canvas_field_right(c, row, at, 9, LG_STYLE_NORMAL, time);
        if (wide) {
            lg_format_duration(known && f->step.p90_us != LG_NONE ? f->step.p90_us * 1000 : LG_NONE,
                               time, sizeof(time));
            at = lg_canvas_field_right(c, row, at, 9, LG_STYLE_NORMAL, time);
        }
        lg_format_duration(known && f->step.p50_us != LG_NONE ? f->step.p50_us * 1000 : LG_NONE,
                           time, sizeof(time));
        at = lg_canvas_field_right(c, row, at, wide ? 9 : 8, LG_STYLE_NORMAL, time);
        bool requests = r->key.kind == LG_KIND_REQUEST || r->key.kind == LG_KIND_WEBSOCKET;
        lg_format_rate(requests ? f->requests_per_s : -1, time, sizeof(time));
        at = lg_canvas_field_right(c, row, at, wide ? 9 : 8, LG_STYLE_NORMAL, time);
        for (size_t k = 0; wide && k < each_count; k++) {
            uint64_t ns = r->blocked_by_worker != NULL ? r->blocked_by_worker[each[k]] : LG_NONE;
            at = lg_canvas_field_right(c, row, at, 8, LG_STYLE_NORMAL,
                                       lg_format_duration(ns, time, sizeof(time)));
        }
        lg_screen_key_text(&r->key, 5, text, sizeof(text));
        lg_canvas_field(c, row, at + 2, c->columns - at - 2, LG_STYLE_NORMAL, text);
    }
}

static const struct lg_worker *
selected_worker(const struct lg_screen *s)
{
    const struct lg_worker *workers[WORKERS_MAX];
    size_t count = shown_workers(s, workers, WORKERS_MAX);
    size_t at = s->list[LG_PAGE_WORKERS].at;
    return at < count ? workers[at] : NULL;
}

static char *
percent(double share, char *out, size_t size)
{
    if (share < 0) {
        snprintf(out, size, "-");
    }
    else {
        snprintf(out, size, "%.0f%%", share * 100);
    }
    return out;
}
