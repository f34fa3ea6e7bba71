/*
 * screen_overview.c - which endpoints block the loop: the first screen.
 *
 * A column is one row of the table below. Lines have fixed places: 1 identity,
 * 2 lag, 3 loop, 4 blocks, 5 banner, 6 windows, 7 heading; the last but one is
 * the selected row in words. Small terminals keep title, banner and rows.
 */
#include <inttypes.h>
#include <string.h>

#include "screen_parts.h"

/* X(ID, sort, shown from this many columns on, width, width on a wide screen,
 * what it means). The widths include the gap at the left. */
#define COLUMNS(X) \
    X(BLOCKED, LG_SORT_BLOCKED, 0, 9, 9, "time the loop could run nothing else") \
    X(SHARE, LG_SORT_BLOCKED, 70, 7, 7, "%LOOP: BLOCKED as a share of the window") \
    X(BLOCKS, LG_SORT_BLOCKS, 50, 6, 7, "N>T: steps longer than the threshold of T ms") \
    X(TOTAL, LG_SORT_TOTAL, 120, 8, 8, "N TOTAL: the same since the worker started") \
    X(MAX, LG_SORT_MAX, 40, 8, 8, "longest step; * still runs") \
    X(P99, LG_SORT_P99, 60, 9, 10, "99 % of the steps were shorter") \
    X(P90, LG_SORT_P90, 100, 8, 9, "90 % of the steps were shorter") \
    X(P50, LG_SORT_P50, 70, 8, 9, "half of the steps were shorter") \
    X(RATE, LG_SORT_RATE, 76, 7, 8, "REQ/S: finished requests a second") \
    X(OPEN, LG_SORT_OPEN, 100, 5, 5, "requests in progress") \
    X(BUSY, LG_SORT_BUSY, 100000, 7, 7, "BUSY: all its time on the loop (when sorted by)") \
    X(WAITED, LG_SORT_WAITED, 100000, 7, 7, "WAITED: requests behind its blocks (when sorted by)")

enum column {
#define LG_X(id, sort, from, narrow, wide, what) COLUMN_##id,
    COLUMNS(LG_X)
#undef LG_X
        COLUMN_COUNT
};

static const struct {
    enum lg_sort sort;
    int from;
    int width[2];
    const char *what;
} columns[] = {
#define LG_X(id, sort, from, narrow, wide, what) {sort, from, {narrow, wide}, what},
    COLUMNS(LG_X)
#undef LG_X
};

#define FRAME_WIDTH 28                  /* WORST FRAME */
#define FRAME_FROM 140
#define LOWER_ROWS 13                   /* of a tall screen: detail of the row */

static void draw_head(struct lg_screen *s, const struct lg_worker *worker, int rows);
static void draw_title(struct lg_screen *s, const struct lg_worker *worker);
static void draw_lag(struct lg_screen *s, const struct lg_worker *worker, int row);
static void draw_loop(struct lg_screen *s, const struct lg_worker *worker, int row);
static void draw_blocks(struct lg_screen *s, const struct lg_worker *worker, int row);
static void draw_view(struct lg_screen *s, int row, size_t count);
static int draw_heading(struct lg_screen *s, int row);
static void draw_row(struct lg_screen *s, int row, const struct lg_row *line, bool selected);
static bool is_shown(const struct lg_screen *s, int column);
static const char *heading_of(const struct lg_screen *s, int column, char *out, size_t size);
static enum lg_style cell(const struct lg_row *line, int column, char *out, size_t size);
static void draw_selected(struct lg_screen *s, int row, const struct lg_row *line);
static void remember_row(struct lg_screen *s, const struct lg_row *rows, size_t count);
static void draw_sort_menu(struct lg_screen *s);
static const char *dash_if_0(const char *text);

void
lg_screen_overview(struct lg_screen *s)
{
    const struct lg_worker *worker = lg_screen_worker(s);
    const struct lg_row *rows;
    size_t count = lg_top_rows(s->top, s->worker, &s->view, &rows);
    struct lg_list *list = &s->list[LG_PAGE_OVERVIEW];
    int height = s->canvas.rows;
    bool tall = height >= LG_TALL;
    /* Rows of the head, of the foot; what is between is the table's. */
    int head = height >= 10 ? (height >= 12 ? 7 : 6) : height >= 6 ? 3 : 2;
    int foot = height >= 12 ? 2 : height >= 5 ? 1 : 0;
    foot = tall ? LOWER_ROWS : foot;
    remember_row(s, rows, count);
    lg_list_fit(list, count, head, height - head - foot);
    draw_head(s, worker, head);
    if (head >= 6) {
        draw_view(s, 5, count);
    }
    if (head == 7 || head == 3) {
        draw_heading(s, head - 1);
    }
    for (size_t i = 0; i < list->visible && list->first + i < count; i++) {
        size_t at = list->first + i;
        draw_row(s, head + (int)i, &rows[at], at == list->at);
    }
    const struct lg_row *selected = count > 0 ? &rows[list->at] : NULL;
    if (count == 0) {
        lg_canvas_field(&s->canvas, head, 1, s->canvas.columns - 1, LG_STYLE_DIM,
                        s->view.filter != NULL && s->view.filter[0] != '\0'
                            ? "no endpoint matches the filter (Esc ends it)"
                            : "no request yet");
    }
    if (selected != NULL) {
        const struct lg_stack_frame *frame =
            selected->last_frame != NULL ? selected->last_frame : selected->worst_frame;
        s->copy[0] = '\0';
        if (frame != NULL) {
            snprintf(s->copy, sizeof(s->copy), "%.400s:%u", frame->file, frame->line);
        }
    }
    if (tall && selected != NULL) {
        lg_screen_lower_detail(s, height - foot, height - 3, selected);
        draw_selected(s, height - 3, selected);
    }
    else if (foot == 2 && selected != NULL) {
        draw_selected(s, height - 2, selected);
    }
    if (foot > 0) {
        bool ended = worker != NULL && worker->post_mortem;
        lg_screen_bottom(
            s, lg_screen_wide(s)
                   ? "F1 ?Help  Enter Detail  Tab Next screen  e Events  b Blocked now  a Workers"
                     "  / Search  F4 & Filter  F6 s Sort  Space Pause  w Save   q Quit"
               : ended
                   ? "?Help  Enter Detail  e Events  b Last stack  w Save as JSON  / Search  q Quit"
                   : "?Help  Enter Detail  Tab Events  / Search  & Filter  s Sort  Space Pause"
                     "  q Quit");
    }
    if (s->prompt == LG_PROMPT_SORT) {
        draw_sort_menu(s);
    }
}

static void
draw_head(struct lg_screen *s, const struct lg_worker *worker, int rows)
{
    if (s->worker == LG_ALL_WORKERS) {
        lg_screen_workers_title(s);
        if (rows >= 6) {
            lg_screen_workers_sum(s, 1);
        }
    }
    else {
        draw_title(s, worker);
    }
    if (rows >= 6 && worker != NULL) {
        draw_lag(s, worker, 1);
        draw_loop(s, worker, 2);
        draw_blocks(s, worker, 3);
    }
    lg_screen_banner(s, lg_screen_banner_row(s));
}

static void
draw_title(struct lg_screen *s, const struct lg_worker *worker)
{
    char left[LG_LINE_MAX];
    char tail[LG_LINE_MAX];
    char app[LG_LINE_MAX];
    char up[LG_TEXT];
    int width = s->canvas.columns;
    if (worker == NULL) {
        lg_screen_title(s, 0, " loopguard-top  no worker");
        return;
    }
    lg_format_uptime(worker->up_ns, up, sizeof(up));
    if (worker->post_mortem) {
        snprintf(tail, sizeof(tail), "   ran %s", up);
    }
    else if (lg_screen_wide(s)) {
        int n = snprintf(tail, sizeof(tail), "   python %s   %s   up %s", worker->python,
                         worker->loop_kinds, up);
        if (width >= FRAME_FROM && n > 0) {
            snprintf(tail + n, sizeof(tail) - (size_t)n, "      agent %s", worker->agent);
        }
    }
    else {
        const char *dot = strchr(worker->python, '.');
        dot = dot != NULL ? strchr(dot + 1, '.') : NULL;
        int minor = dot != NULL ? (int)(dot - worker->python) : (int)strlen(worker->python);
        int n = width >= 76 ? snprintf(tail, sizeof(tail), "   py %.*s", minor, worker->python) : 0;
        snprintf(tail + n, sizeof(tail) - (size_t)n, "   up %s", up);
    }
    int at = lg_screen_wide(s)
                 ? snprintf(left, sizeof(left), " loopguard-top " LG_VERSION "   pid %s   ",
                            worker->label)
                 : snprintf(left, sizeof(left), " loopguard-top  %s ", worker->label);
    /* The application's name gives way: pid, times and state stay. */
    int room = width - at - (int)lg_format_columns(tail) - (lg_screen_wide(s) ? 22 : 13);
    room = room < 8 ? 8 : room;
    if ((size_t)at < sizeof(left)) {
        snprintf(left + at, sizeof(left) - (size_t)at, "%s%.200s",
                 lg_format_cut(worker->app, (size_t)room, app, 200), tail);
    }
    lg_screen_title(s, 0, left);
}

static void
draw_lag(struct lg_screen *s, const struct lg_worker *worker, int row)
{
    char now[LG_TEXT];
    char p50[LG_TEXT];
    char p90[LG_TEXT];
    char p99[LG_TEXT];
    char max[LG_TEXT];
    const struct lg_window_sum *sum = &worker->sum[s->view.window];
    uint64_t threshold = worker->threshold_ns;
    struct lg_canvas *c = &s->canvas;
    /* Just attached: nothing of the window is known, the whole life is. */
    bool known = sum->lag.source != LG_QUANTILE_NONE;
    const struct lg_quantiles *lag = known ? &sum->lag : &worker->sum[LG_WINDOW_TOTAL].lag;
    enum lg_style style = known ? LG_STYLE_NORMAL : LG_STYLE_DIM;
    lg_format_duration(worker->lag_now_ns, now, sizeof(now));
    lg_screen_us_text(lag->p50_us, p50, sizeof(p50));
    lg_screen_us_text(lag->p90_us, p90, sizeof(p90));
    lg_screen_us_text(lag->p99_us, p99, sizeof(p99));
    lg_format_duration(worker->max_lag_ns, max, sizeof(max));
    int at =
        lg_canvas_put(c, row, 1, LG_STYLE_NORMAL, worker->post_mortem ? "Lag  last" : "Lag   now");
    at = lg_canvas_printf(c, row, at, lg_screen_duration_style(worker->lag_now_ns, threshold),
                          "%7s%s", now, worker->lag_high ? "!" : " ");
    at = lg_canvas_printf(c, row, at, style, "  p50%7s", p50);
    if (lg_screen_wide(s)) {
        at = lg_canvas_printf(c, row, at, style, "   p90%7s", p90);
    }
    at = lg_canvas_printf(c, row, at, style, "   p99%7s", p99);
    at = lg_canvas_put(c, row, at, LG_STYLE_NORMAL, "   max");
    at = lg_canvas_printf(c, row, at, lg_screen_duration_style(worker->max_lag_ns, threshold),
                          "%7s", max);
    int end = c->columns - 1;
    if (lg_screen_wide(s)) {
        char clock[LG_TEXT];
        at = lg_canvas_printf(c, row, at, LG_STYLE_NORMAL, " (%s)",
                              lg_format_clock(worker->max_lag_real_ns, s->top->now_real_ns, false,
                                              clock, sizeof(clock)));
        end = lg_canvas_right(c, row, end, LG_STYLE_DIM, " 60s");
    }
    int width = end - at - 3;
    width = width > LG_SERIES ? LG_SERIES : width;
    if (width >= 8) {
        lg_screen_spark(s, row, end - width, width, worker->series_lag_ns, LG_SERIES);
    }
}

static void
draw_loop(struct lg_screen *s, const struct lg_worker *worker, int row)
{
    char rate[LG_TEXT];
    char tail[LG_LINE_MAX];
    char clock[LG_TEXT];
    char open[LG_TEXT];
    char tasks[LG_TEXT];
    struct lg_canvas *c = &s->canvas;
    const struct lg_window_sum *sum = &worker->sum[s->view.window];
    if (worker->post_mortem) {
        snprintf(tail, sizeof(tail), "(stopped)      last heartbeat %s      written by agent %s",
                 lg_format_clock(worker->heartbeat_real_ns, s->top->now_real_ns, true, clock,
                                 sizeof(clock)),
                 worker->agent);
        int at = lg_canvas_put(c, row, 1, LG_STYLE_NORMAL, "Loop  ");
        lg_canvas_field(c, row, at, c->columns - at - 1, LG_STYLE_NORMAL, tail);
        return;
    }
    lg_format_rate(sum->requests_per_s, rate, sizeof(rate));
    lg_format_count(worker->open_requests, open, sizeof(open));
    lg_format_count(worker->tasks, tasks, sizeof(tasks));
    if (lg_screen_wide(s)) {
        snprintf(tail, sizeof(tail), "req/s %s   open %s   tasks %s", rate, open, tasks);
    }
    else {
        snprintf(tail, sizeof(tail), "%s req/s   %s open", rate, open);
    }
    char busy[LG_TEXT] = "  -";
    if (sum->busy_share >= 0) {
        snprintf(busy, sizeof(busy), "%.0f%%", sum->busy_share * 100);
    }
    int at = lg_canvas_printf(c, row, 1, LG_STYLE_NORMAL, "Loop  busy %4s ", busy);
    int end = lg_canvas_right(c, row, c->columns - 1, LG_STYLE_NORMAL, tail) - 3;
    lg_screen_bar(s, row, at, end - at, sum->busy_share);
}

static void
draw_blocks(struct lg_screen *s, const struct lg_worker *worker, int row)
{
    static const enum lg_window wide_windows[] = {LG_WINDOW_10S, LG_WINDOW_1M, LG_WINDOW_5M};
    char text[LG_LINE_MAX];
    char number[LG_TEXT];
    char share[LG_TEXT];
    struct lg_canvas *c = &s->canvas;
    bool wide = lg_screen_wide(s);
    size_t first = wide ? 0 : 1;
    int at = lg_canvas_put(c, row, 1, LG_STYLE_NORMAL, "Block ");
    if (!worker->post_mortem) {
        for (size_t i = first; i < 3; i++) {
            enum lg_window w = wide_windows[i];
            at = lg_canvas_printf(c, row, at, LG_STYLE_NORMAL, "%s %s   ", lg_window_text(w),
                                  lg_format_count(worker->sum[w].blocks, number, sizeof(number)));
        }
    }
    at = lg_canvas_printf(
        c, row, at, LG_STYLE_NORMAL, "total %s",
        lg_format_count(worker->sum[LG_WINDOW_TOTAL].blocks, number, sizeof(number)));
    size_t from = wide && !worker->post_mortem ? 0 : 1;
    size_t to = wide && !worker->post_mortem ? 3 : 2;
    at = lg_canvas_put(c, row, at + (wide ? 8 : 4), LG_STYLE_NORMAL, "blocked");
    for (size_t i = from; i < to; i++) {
        enum lg_window w = worker->post_mortem ? LG_WINDOW_TOTAL : wide_windows[i];
        const struct lg_window_sum *sum = &worker->sum[w];
        at = lg_canvas_printf(c, row, at, LG_STYLE_NORMAL, "%s%s%s %s (%s)", i > from ? "  " : "",
                              worker->post_mortem ? "" : " ",
                              worker->post_mortem ? "" : lg_window_text(w),
                              lg_format_duration(sum->blocked_ns, number, sizeof(number)),
                              lg_format_share(sum->blocked_share, share, sizeof(share)));
    }
    lg_format_count(worker->lost_events, number, sizeof(number));
    snprintf(text, sizeof(text), wide ? "lost events %s   seg %.0f%%" : "lost events %s", number,
             worker->fill * 100);
    enum lg_style style = worker->lost_events > 0 ? LG_STYLE_WARNING : LG_STYLE_NORMAL;
    if (at + 2 + (int)strlen(text) < c->columns) {
        lg_canvas_right(c, row, c->columns - 1, style, text);
    }
}

static void
draw_view(struct lg_screen *s, int row, size_t count)
{
    char text[LG_LINE_MAX];
    char filter[LG_LINE_MAX];
    char rows[64];
    const struct lg_list *list = &s->list[LG_PAGE_OVERVIEW];
    bool filtered = s->view.filter != NULL && s->view.filter[0] != '\0';
    int at = lg_screen_windows(s, row, 1);
    if (lg_screen_wide(s)) {
        size_t last = list->first + list->visible;
        last = last > count ? count : last;
        snprintf(rows, sizeof(rows), "rows %zu-%zu of %zu", count > 0 ? list->first + 1 : 0, last,
                 count);
    }
    else {
        snprintf(rows, sizeof(rows), "%zu row%s", count, count == 1 ? "" : "s");
    }
    lg_format_cut(filtered ? s->view.filter : "(none)", lg_screen_wide(s) ? 30 : 10, filter, 128);
    snprintf(text, sizeof(text), "sort %s%s   filter %.128s   %s", lg_sort_heading(s->view.sort),
             s->view.reverse && lg_screen_wide(s) ? " (reversed)" : "", filter, rows);
    if (at + 2 + (int)lg_format_columns(text) >= s->canvas.columns) {
        snprintf(text, sizeof(text), "%s", rows);
    }
    if (at + 2 + (int)lg_format_columns(text) < s->canvas.columns) {
        lg_canvas_right(&s->canvas, row, s->canvas.columns - 1, LG_STYLE_NORMAL, text);
    }
}

/* ---- table ------------------------------------------------------------- */

static bool
is_shown(const struct lg_screen *s, int column)
{
    /* A table sorted by something that is not there cannot be understood. */
    bool sorted = columns[column].sort == s->view.sort && column != COLUMN_SHARE;
    bool gives_way = column == COLUMN_SHARE && s->view.sort != LG_SORT_NAME &&
                     s->view.sort != LG_SORT_BLOCKED && s->canvas.columns < 100;
    return sorted || (s->canvas.columns >= columns[column].from && !gives_way);
}

/* Returns the column where the endpoint starts. */
static int
draw_heading(struct lg_screen *s, int row)
{
    struct lg_canvas *c = &s->canvas;
    int wide = c->columns >= FRAME_FROM;
    int at = 0;
    lg_canvas_fill(c, row, 0, c->columns, LG_STYLE_HEADING, " ");
    for (int i = 0; i < COLUMN_COUNT; i++) {
        char text[LG_TEXT];
        if (!is_shown(s, i)) {
            continue;
        }
        at = lg_canvas_field_right(c, row, at, columns[i].width[wide], LG_STYLE_HEADING,
                                   heading_of(s, i, text, sizeof(text)));
        if (columns[i].sort == s->view.sort && i != COLUMN_SHARE) {
            lg_canvas_put(
                c, row, at, LG_STYLE_HEADING,
                s->glyphs->one[s->view.reverse ? LG_GLYPH_ASCENDING : LG_GLYPH_DESCENDING]);
        }
    }
    at += 2;
    int end = lg_canvas_put(c, row, at, LG_STYLE_HEADING, "ENDPOINT");
    if (s->view.sort == LG_SORT_NAME) {
        lg_canvas_put(c, row, end, LG_STYLE_HEADING,
                      s->glyphs->one[s->view.reverse ? LG_GLYPH_DESCENDING : LG_GLYPH_ASCENDING]);
    }
    if (c->columns >= FRAME_FROM) {
        lg_canvas_put(c, row, c->columns - FRAME_WIDTH, LG_STYLE_HEADING, "WORST FRAME");
    }
    return at;
}

static const char *
heading_of(const struct lg_screen *s, int column, char *out, size_t size)
{
    if (column == COLUMN_SHARE) {
        snprintf(out, size, "%%LOOP");
    }
    else if (column == COLUMN_BLOCKS) {
        return lg_screen_threshold_heading(s, out, size);
    }
    else {
        snprintf(out, size, "%s", lg_sort_heading(columns[column].sort));
    }
    return out;
}

static void
draw_row(struct lg_screen *s, int row, const struct lg_row *line, bool selected)
{
    char text[LG_NAME_MAX + 32];
    struct lg_canvas *c = &s->canvas;
    const struct lg_worker *worker = lg_screen_worker(s);
    bool ended = worker != NULL && worker->post_mortem;
    int wide = c->columns >= FRAME_FROM;
    int at = 0;
    for (int i = 0; i < COLUMN_COUNT; i++) {
        if (is_shown(s, i)) {
            enum lg_style style = cell(line, i, text, sizeof(text));
            at = lg_canvas_field_right(c, row, at, columns[i].width[wide], style, text);
        }
        if (i == COLUMN_MAX && line->running && !ended) {
            lg_canvas_put(c, row, at, LG_STYLE_RED, "*");
        }
    }
    lg_canvas_put(c, row, 0, LG_STYLE_BOLD, selected ? ">" : line->unclean ? "~" : " ");
    at += 2;
    int end = c->columns >= FRAME_FROM ? c->columns - FRAME_WIDTH - 1 : c->columns;
    lg_screen_key_text(&line->key, 5, text, sizeof(text));
    const char *from = text;
    for (int i = 0; i < s->sideways && *from != '\0'; i++) {
        do {
            from++;
        } while ((*from & 0xc0) == 0x80);
    }
    lg_canvas_field(c, row, at, end - at, line->running ? LG_STYLE_BOLD : LG_STYLE_NORMAL, from);
    if (c->columns >= FRAME_FROM && line->worst_frame != NULL) {
        lg_screen_frame_text(line->worst_frame, text, sizeof(text));
        lg_canvas_field(c, row, c->columns - FRAME_WIDTH, FRAME_WIDTH, LG_STYLE_NORMAL, text);
    }
    if (selected) {
        lg_canvas_restyle(c, row, 0, c->columns, LG_STYLE_SELECTED);
    }
}

static enum lg_style
cell(const struct lg_row *line, int column, char *out, size_t size)
{
    const struct lg_figures *f = &line->now;
    uint64_t ns = LG_NONE;
    snprintf(out, size, "-");
    switch (column) {
    case COLUMN_BLOCKED:
        lg_format_duration(f->blocked_ns, out, size);
        return f->blocked_ns > 0 && f->blocked_ns != LG_NONE ? LG_STYLE_BOLD : LG_STYLE_NORMAL;
    case COLUMN_SHARE:
        lg_format_share(f->loop_share, out, size);
        return f->loop_share >= 0.1 ? LG_STYLE_WARNING : LG_STYLE_NORMAL;
    case COLUMN_BLOCKS:
        lg_format_count(f->blocks, out, size);
        return LG_STYLE_NORMAL;
    case COLUMN_TOTAL:
        lg_format_count(line->total_blocks, out, size);
        return LG_STYLE_NORMAL;
    case COLUMN_RATE:
        if (line->key.kind == LG_KIND_REQUEST || line->key.kind == LG_KIND_WEBSOCKET) {
            lg_format_rate(f->requests_per_s, out, size);
        }
        return LG_STYLE_NORMAL;
    case COLUMN_OPEN:
        if (line->key.kind == LG_KIND_REQUEST || line->key.kind == LG_KIND_WEBSOCKET) {
            lg_format_count(line->open, out, size);
        }
        return LG_STYLE_NORMAL;
    case COLUMN_WAITED:
        lg_format_count(f->waited, out, size);
        return LG_STYLE_NORMAL;
    case COLUMN_BUSY:
        lg_format_duration(f->busy_ns, out, size);
        return LG_STYLE_NORMAL;
    case COLUMN_MAX:
        /* No step in the window is not a step of no length. */
        ns = f->max_ns == 0 ? LG_NONE : f->max_ns;
        break;
    case COLUMN_P99:
        ns = f->step.p99_us == LG_NONE ? LG_NONE : f->step.p99_us * LG_NS_PER_US;
        break;
    case COLUMN_P90:
        ns = f->step.p90_us == LG_NONE ? LG_NONE : f->step.p90_us * LG_NS_PER_US;
        break;
    case COLUMN_P50:
        ns = f->step.p50_us == LG_NONE ? LG_NONE : f->step.p50_us * LG_NS_PER_US;
        break;
    default:
        break;
    }
    if (column != COLUMN_MAX && f->step.source == LG_QUANTILE_NONE) {
        ns = LG_NONE;
    }
    lg_format_duration(ns, out, size);
    return lg_screen_duration_style(ns, line->threshold_ns);
}

/* " POST /reports/{id}: last block 1.84s, 00:12 ago, render_pdf app/reports.py:88". */
static void
draw_selected(struct lg_screen *s, int row, const struct lg_row *line)
{
    char name[LG_NAME_MAX];
    char time[LG_TEXT];
    char age[LG_TEXT];
    char frame[LG_LINE_MAX];
    char text[2 * LG_LINE_MAX + LG_NAME_MAX];
    lg_screen_key_text(&line->key, 0, name, sizeof(name));
    if (line->last_block_ns == LG_NONE) {
        snprintf(text, sizeof(text), "%s: no block seen, longest step %s", name,
                 dash_if_0(lg_format_duration(line->now.max_ns, time, sizeof(time))));
    }
    else {
        lg_screen_frame_text(line->last_frame != NULL ? line->last_frame : line->worst_frame, frame,
                             sizeof(frame));
        snprintf(text, sizeof(text), "%s: last block %s, %s ago%s%s", name,
                 lg_format_duration(line->last_block_ns, time, sizeof(time)),
                 lg_format_age(line->last_block_age_ns, age, sizeof(age)),
                 frame[0] == '\0'    ? ""
                 : lg_screen_wide(s) ? ", in "
                                     : ", ",
                 frame);
    }
    lg_canvas_field(&s->canvas, row, 1, s->canvas.columns - 2, LG_STYLE_NORMAL, text);
}

static const char *
dash_if_0(const char *text)
{
    return strcmp(text, "0") == 0 ? "-" : text;
}

/* With F the cursor stays on its endpoint while the table is sorted anew. */
static void
remember_row(struct lg_screen *s, const struct lg_row *rows, size_t count)
{
    struct lg_list *list = &s->list[LG_PAGE_OVERVIEW];
    if (s->follow_row && s->row_key.name != NULL) {
        for (size_t i = 0; i < count; i++) {
            if (lg_key_equal(&rows[i].key, &s->row_key)) {
                list->at = i;
            }
        }
    }
    if (list->at < count) {
        snprintf(s->row_name, sizeof(s->row_name), "%s",
                 rows[list->at].key.name != NULL ? rows[list->at].key.name : "");
        s->row_key = rows[list->at].key;
        s->row_key.name = s->row_name;
    }
}

enum lg_sort
lg_screen_next_sort(const struct lg_screen *s, int step)
{
    enum lg_sort shown[COLUMN_COUNT + 1];
    int count = 0;
    int at = 0;
    for (int i = 0; i < COLUMN_COUNT; i++) {
        if (is_shown(s, i) && i != COLUMN_SHARE) {
            at = columns[i].sort == s->view.sort ? count : at;
            shown[count++] = columns[i].sort;
        }
    }
    at = s->view.sort == LG_SORT_NAME ? count : at;
    shown[count++] = LG_SORT_NAME;
    return shown[(at + step + count) % count];
}

void
lg_screen_column_help(struct lg_screen *s, int row, int column, int end)
{
    for (int i = 0; i < COLUMN_COUNT && row + i < s->canvas.rows; i++) {
        const char *colon = strchr(columns[i].what, ':');
        int at = column;
        if (colon == NULL) {
            lg_canvas_put(&s->canvas, row + i, at, LG_STYLE_KEY, lg_sort_heading(columns[i].sort));
        }
        else {
            lg_canvas_printf(&s->canvas, row + i, at, LG_STYLE_KEY, "%.*s",
                             (int)(colon - columns[i].what), columns[i].what);
        }
        lg_canvas_field(&s->canvas, row + i, at + 9, end - at - 9, LG_STYLE_NORMAL,
                        colon == NULL ? columns[i].what : colon + 2);
    }
}

static void
draw_sort_menu(struct lg_screen *s)
{
    struct lg_canvas *c = &s->canvas;
    int width = 62 < c->columns ? 62 : c->columns;
    int left = c->columns - width;
    int rows = (int)LG_SORT_COUNT + 1;
    int top = c->rows - rows - 2 > 6 ? 6 : c->rows - rows - 2;
    top = top < 0 ? 0 : top;
    const char *line = s->glyphs->one[LG_GLYPH_HORIZONTAL];
    lg_canvas_fill(c, top, left, c->columns, LG_STYLE_BOLD, line);
    lg_canvas_put(c, top, left + 2, LG_STYLE_BOLD, " sort by ");
    for (int i = 0; i < (int)LG_SORT_COUNT && top + 1 + i < c->rows - 1; i++) {
        static const char *const what[] = {
#define LG_X(name, key, heading, words) words,
            LG_SORTS(LG_X)
#undef LG_X
        };
        int row = top + 1 + i;
        bool chosen = (size_t)i == s->menu_at;
        enum lg_style style = chosen ? LG_STYLE_SELECTED : LG_STYLE_NORMAL;
        lg_canvas_fill(c, row, left, c->columns, style, " ");
        lg_canvas_put(c, row, left, style, chosen ? ">" : " ");
        lg_canvas_put(c, row, left + 2, style, lg_sort_heading((enum lg_sort)i));
        lg_canvas_field(c, row, left + 12, width - 13, style, what[i]);
    }
}
