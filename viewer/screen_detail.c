/*
 * screen_detail.c - one endpoint: how long its steps were, when it blocked,
 * in which code, and who waited. Also the lower part of a tall overview, and
 * the screen of one stack.
 */
#include <inttypes.h>
#include <string.h>

#include "screen_parts.h"

static void draw_lines_80(struct lg_screen *s, const struct lg_detail *d);
static void draw_lines_140(struct lg_screen *s, const struct lg_detail *d);
static void draw_charts(struct lg_screen *s, int row, int rows, const struct lg_detail *d);
static int draw_stacks(struct lg_screen *s, int row, int end, const struct lg_detail *d);
static void draw_below(struct lg_screen *s, int row, int end, const struct lg_detail *d);
static void short_stacks(struct lg_screen *s, int row, int column, int end,
                         const struct lg_detail *d);
static const char *order_text(enum lg_stack_order order);

void
lg_screen_detail(struct lg_screen *s)
{
    const struct lg_detail *d;
    char name[LG_NAME_MAX];
    char left[LG_NAME_MAX + 80];
    struct lg_list *list = &s->list[LG_PAGE_DETAIL];
    int height = s->canvas.rows;
    lg_screen_key_text(&s->key, 0, name, sizeof(name));
    int at = lg_screen_title_start(s, lg_screen_worker(s), left, sizeof(left));
    if (at >= 0 && (size_t)at < sizeof(left)) {
        snprintf(left + at, sizeof(left) - (size_t)at, "   %s", name);
    }
    lg_screen_title(s, 0, left);
    const char *keys =
        lg_screen_wide(s)
            ? "?Help  q Back  Tab Next endpoint  Enter Stack  f Fold  t Order  1-4 Window  e Events"
              "  y path:line  w Save  Space Pause   Q Quit"
            : "?Help  q Back  Tab Next endpoint  1-4 Window  Enter Stack  e Events  Space Pause";
    enum lg_band_set bands = height < 20                              ? LG_BANDS_COARSE
                             : lg_screen_wide(s) && height >= LG_TALL ? LG_BANDS_FINE
                                                                      : LG_BANDS_MEDIUM;
    if (!lg_top_detail(s->top, s->worker, &s->view, &s->key, bands, s->order, &d)) {
        lg_canvas_put(&s->canvas, 2, 1, LG_STYLE_DIM, "this endpoint is not there");
        lg_screen_bottom(s, keys);
        lg_list_fit(list, 0, 0, 0);
        return;
    }
    lg_list_fit(list, d->stack_count, -1, (int)d->stack_count);
    bool wide = lg_screen_wide(s);
    if (wide) {
        draw_lines_140(s, d);
    }
    else {
        draw_lines_80(s, d);
    }
    int charts = wide ? 4 : 3;
    /* The bands want one row each; the stacks below want at least five. */
    int rows = (int)d->band_count > 7 ? (int)d->band_count : 7;
    if (charts + 1 + rows > height - 8) {
        rows = height - 8 - charts - 1;
    }
    if (rows >= 3) {
        draw_charts(s, charts, rows + 1, d);
    }
    else {
        rows = -2;
    }
    int row = draw_stacks(s, charts + rows + 2, height - 2, d);
    if (wide) {
        draw_below(s, row + 1, height - 2, d);
    }
    if (d->stack_count > 0 && height >= 10) {
        lg_canvas_printf(&s->canvas, height - 2, 1, LG_STYLE_DIM,
                         "stack %zu of %zu   order: %s (t: time, count, max, last)   "
                         "y path:line",
                         list->at + 1, d->stack_count, order_text(s->order));
    }
    lg_screen_bottom(s, keys);
}

static void
draw_lines_80(struct lg_screen *s, const struct lg_detail *d)
{
    char count[LG_TEXT];
    char blocks[LG_TEXT];
    char ms[LG_TEXT];
    char blocked[LG_TEXT];
    char max[LG_TEXT];
    char text[LG_LINE_MAX];
    const struct lg_figures *f = &d->row.now;
    snprintf(text, sizeof(text),
             "window %s   requests %s   blocks %s (>%sms)   blocked %s   max %s",
             lg_window_text(s->view.window), lg_format_count(f->requests, count, sizeof(count)),
             lg_format_count(f->blocks, blocks, sizeof(blocks)),
             lg_format_ms(d->row.threshold_ns, ms, sizeof(ms)),
             lg_format_duration(f->blocked_ns, blocked, sizeof(blocked)),
             lg_format_duration(f->max_ns, max, sizeof(max)));
    lg_canvas_field(&s->canvas, 1, 1, s->canvas.columns - 2, LG_STYLE_NORMAL, text);
}

static void
draw_lines_140(struct lg_screen *s, const struct lg_detail *d)
{
    char a[LG_TEXT];
    char b[LG_TEXT];
    char c[LG_TEXT];
    char e[LG_TEXT];
    char g[LG_TEXT];
    char h[LG_TEXT];
    struct lg_canvas *canvas = &s->canvas;
    const struct lg_figures *f = &d->row.now;
    const struct lg_quantiles *q = &f->step;
    uint64_t now = s->top->now_real_ns;
    uint64_t first = d->row.first_seen_ns;
    int at = lg_canvas_printf(canvas, 1, 1, LG_STYLE_NORMAL, "window [%d]%s   requests %s (%s/s)",
                              (int)s->view.window + 1, lg_window_text(s->view.window),
                              lg_format_count(f->requests, a, sizeof(a)),
                              lg_format_rate(f->requests_per_s, b, sizeof(b)));
    at = lg_canvas_printf(
        canvas, 1, at, LG_STYLE_NORMAL, "   steps %s   blocks %s (>%sms)   blocked %s (%s)",
        lg_format_count(f->steps, a, sizeof(a)), lg_format_count(f->blocks, b, sizeof(b)),
        lg_format_ms(d->row.threshold_ns, c, sizeof(c)),
        lg_format_duration(f->blocked_ns, e, sizeof(e)),
        lg_format_share(f->loop_share, g, sizeof(g)));
    char text[LG_LINE_MAX];
    snprintf(text, sizeof(text), "first seen %s   last %s ago",
             lg_format_clock(first == LG_NONE || first > now ? 0 : now - first, now, false, a,
                             sizeof(a)),
             lg_format_age(d->row.last_seen_ns, b, sizeof(b)));
    /* Large numbers leave room for less: the times go last, the open first. */
    int room = canvas->columns - 3 - (int)strlen(text) - at;
    if (room >= 0) {
        lg_canvas_right(canvas, 1, canvas->columns - 1, LG_STYLE_NORMAL, text);
    }
    snprintf(text, sizeof(text), "   open %s", lg_format_count(d->row.open, c, sizeof(c)));
    if (room >= (int)strlen(text)) {
        lg_canvas_put(canvas, 1, at, LG_STYLE_NORMAL, text);
    }
    at = lg_canvas_printf(
        canvas, 2, 1, LG_STYLE_NORMAL, "per step   p50 %s   p90 %s   p99 %s   p99.9 %s   max %s",
        lg_screen_us_text(q->p50_us, a, sizeof(a)), lg_screen_us_text(q->p90_us, b, sizeof(b)),
        lg_screen_us_text(q->p99_us, c, sizeof(c)), lg_screen_us_text(q->p999_us, e, sizeof(e)),
        lg_format_duration(f->max_ns, g, sizeof(g)));
    q = &f->response;
    at = lg_canvas_printf(canvas, 2, at < 73 ? 73 : at + 3, LG_STYLE_NORMAL,
                          "response (with awaits)   p50 %s   p99 %s",
                          lg_screen_us_text(q->p50_us, a, sizeof(a)),
                          lg_screen_us_text(q->p99_us, h, sizeof(h)));
    if (d->status[3] > 0 || d->exceptions > 0) {
        lg_canvas_printf(canvas, 2, at, LG_STYLE_WARNING, "   5xx %" PRIu64 "   errors %" PRIu64,
                         d->status[3], d->exceptions);
    }
}

/* Histogram at the left, timeline at the right, quantiles below that. */
static void
draw_charts(struct lg_screen *s, int row, int rows, const struct lg_detail *d)
{
    struct lg_canvas *c = &s->canvas;
    bool wide = lg_screen_wide(s);
    bool both = c->columns >= 76;
    int middle = wide ? 73 : both ? 41 : c->columns;
    char max[LG_TEXT];
    char text[LG_TEXT];
    size_t seconds = wide ? LG_LONG_SERIES : LG_SERIES;
    const uint64_t *series = d->series_blocked_ns + (LG_LONG_SERIES - seconds);
    /* Only a part of the long series may be known. */
    if (wide && d->series_seconds < LG_LONG_SERIES) {
        seconds = LG_SERIES;
        series = d->series_blocked_ns + (LG_LONG_SERIES - LG_SERIES);
    }
    lg_canvas_printf(c, row, 1, LG_STYLE_BOLD, "Time on the loop per step, %s",
                     d->band_source == LG_QUANTILE_TOTAL ? "total"
                                                         : lg_window_text(s->view.window));
    lg_screen_bands(s, row + 1, wide ? 1 : 0, middle - 3, rows - 1, d);
    if (!both) {
        return;
    }
    uint64_t most = 0;
    for (size_t i = 0; i < seconds; i++) {
        most = series[i] != LG_NONE && series[i] > most ? series[i] : most;
    }
    for (int i = 0; i < rows; i++) {
        lg_canvas_put(c, row + i, middle - 1, LG_STYLE_DIM, s->glyphs->one[LG_GLYPH_VERTICAL]);
    }
    int at =
        lg_canvas_printf(c, row, middle + 1, LG_STYLE_BOLD, "Blocked time, last %zu s", seconds);
    lg_canvas_printf(c, row, at + 3, LG_STYLE_NORMAL, "max %s",
                     lg_format_duration(most, max, sizeof(max)));
    int height = wide ? rows - 1 : rows - 4 > 6 ? 6 : rows - 1;
    lg_screen_timeline(s, row + 1, middle, c->columns - middle - 1, height, series, seconds);
    if (!wide && rows - 4 > 6) {
        const struct lg_quantiles *q = &d->row.now.step;
        char p90[LG_TEXT];
        char p99[LG_TEXT];
        lg_canvas_printf(c, row + 8, middle + 1, LG_STYLE_NORMAL, "p50 %s  p90 %s  p99 %s",
                         lg_screen_us_text(q->p50_us, text, sizeof(text)),
                         lg_screen_us_text(q->p90_us, p90, sizeof(p90)),
                         lg_screen_us_text(q->p99_us, p99, sizeof(p99)));
        lg_canvas_printf(c, row + 9, middle + 1, LG_STYLE_NORMAL, "p99.9 %s",
                         lg_screen_us_text(q->p999_us, text, sizeof(text)));
        q = &d->row.now.response;
        lg_canvas_printf(c, row + 10, middle + 1, LG_STYLE_NORMAL, "response p50 %s  p99 %s",
                         lg_screen_us_text(q->p50_us, text, sizeof(text)),
                         lg_screen_us_text(q->p99_us, p99, sizeof(p99)));
    }
}

/* The selected stack with its frames, the others in one line each. Returns
 * the row after the last. */
static int
draw_stacks(struct lg_screen *s, int row, int end, const struct lg_detail *d)
{
    struct lg_canvas *c = &s->canvas;
    struct lg_list *list = &s->list[LG_PAGE_DETAIL];
    bool wide = lg_screen_wide(s);
    char time[LG_TEXT];
    char max[LG_TEXT];
    char age[LG_TEXT];
    char text[2 * LG_LINE_MAX];
    char frame[LG_LINE_MAX];
    if (row >= end) {
        return row;
    }
    int at =
        lg_canvas_printf(c, row, 1, LG_STYLE_BOLD, "Blocking stacks, by %s", order_text(s->order));
    if (d->stack_count == 0) {
        lg_canvas_put(c, row, at, LG_STYLE_DIM, ": none seen");
        return row + 1;
    }
    snprintf(text, sizeof(text), "%zu stack%s, %s block%s, %s", d->stack_count,
             d->stack_count == 1 ? "" : "s", lg_format_count(d->row.now.blocks, age, sizeof(age)),
             d->row.now.blocks == 1 ? "" : "s",
             lg_format_duration(d->row.now.blocked_ns, time, sizeof(time)));
    if (wide) {
        lg_canvas_right(c, row, c->columns - 1, LG_STYLE_NORMAL, text);
    }
    else {
        lg_canvas_printf(c, row, at, LG_STYLE_BOLD, " (%zu)", d->stack_count);
    }
    row++;
    s->copy[0] = '\0';
    /* Scrolled so that the selected one is in sight with some frames. */
    size_t first = list->at > 2 ? list->at - 2 : 0;
    for (size_t i = first; i < d->stack_count && row < end; i++) {
        const struct lg_weighted_stack *w = &d->stacks[i];
        const struct lg_stack_view *stack = lg_screen_weighted(w);
        bool selected = i == list->at;
        snprintf(text, sizeof(text), "%7s  %3.0f%%  %4" PRIu64 "x",
                 lg_format_duration(w->total_ns, time, sizeof(time)), w->share * 100, w->count);
        at = lg_canvas_put(c, row, 1, selected ? LG_STYLE_BOLD : LG_STYLE_NORMAL, text);
        lg_canvas_put(c, row, 0, LG_STYLE_BOLD, selected ? ">" : " ");
        if (wide) {
            at = lg_canvas_printf(c, row, at + 3, LG_STYLE_NORMAL, "max %6s   last %s ago",
                                  lg_format_duration(w->max_ns, max, sizeof(max)),
                                  lg_format_age(w->last_age_ns, age, sizeof(age)));
        }
        if (stack->moving) {
            at = lg_canvas_put(c, row, at + 2, LG_STYLE_DIM, "moving");
        }
        if (selected) {
            const struct lg_stack_frame *user = lg_stack_user_frame(stack);
            if (user != NULL) {
                snprintf(s->copy, sizeof(s->copy), "%.400s:%u", user->file, user->line);
            }
            int others = (int)(d->stack_count - i - 1);
            others = others > 3 ? 3 : others;
            int room = end - row - (wide ? 1 : 0) - others;
            room = room < 1 ? 1 : room;
            int from = wide ? 8 : 23;
            int lines = lg_screen_frames(s, wide ? row + 1 : row, from, room, 0, -1, stack);
            lines = lines < 1 ? 1 : lines > room ? room : lines;
            row += (wide ? 1 : 0) + lines;
            continue;
        }
        const struct lg_stack_frame *inner = stack->depth > 0 ? &stack->frame[0] : NULL;
        const struct lg_stack_frame *user = lg_stack_user_frame(stack);
        lg_screen_frame_text(inner, frame, sizeof(frame));
        snprintf(text, sizeof(text), "%s", frame[0] != '\0' ? frame : "(no stack)");
        int after = lg_canvas_field(c, row, wide ? at + 3 : 23,
                                    (int)lg_format_columns(text) < c->columns - 24
                                        ? (int)lg_format_columns(text)
                                        : c->columns - 24,
                                    LG_STYLE_NORMAL, text);
        if (wide && user != NULL && user != inner) {
            lg_screen_frame_text(user, frame, sizeof(frame));
            snprintf(text, sizeof(text), "  <  %s", frame);
            lg_canvas_field(c, row, after, c->columns - after - 1, LG_STYLE_NORMAL, text);
        }
        row++;
    }
    return row;
}

/* Who waited, causes, hint: where there is room for them. */
static void
draw_below(struct lg_screen *s, int row, int end, const struct lg_detail *d)
{
    struct lg_canvas *c = &s->canvas;
    char text[LG_LINE_MAX];
    char time[LG_TEXT];
    if (row + 2 <= end && d->waited.requests != LG_NONE && d->waited.requests > 0) {
        lg_canvas_printf(c, row, 2, LG_STYLE_BOLD,
                         "Who waited behind it, %s: %" PRIu64 " requests, %s of waiting",
                         lg_window_text(s->view.window), d->waited.requests,
                         lg_format_duration_wide(d->waited.sum_ns, time, sizeof(time)));
        lg_screen_waiting_text(&d->waited, "      ", true, text, sizeof(text));
        lg_canvas_field(c, row + 1, 8, c->columns - 9, LG_STYLE_NORMAL, text);
        row += 3;
    }
    lg_screen_parts_text(d->parts_ns, text, sizeof(text));
    if (row < end && text[0] != '\0') {
        int at = lg_canvas_put(c, row, 2, LG_STYLE_BOLD, "Blocked time by cause, total: ");
        lg_canvas_field(c, row, at, c->columns - at - 1, LG_STYLE_NORMAL, text);
        row += 2;
    }
    if (row < end && d->hint[0] != '\0') {
        int at = lg_canvas_put(c, row, 2, LG_STYLE_GOOD, "Hint: ");
        lg_canvas_field(c, row, at, c->columns - at - 1, LG_STYLE_NORMAL, d->hint);
    }
}

/* ---- lower part of the overview ---------------------------------------- */

void
lg_screen_lower_detail(struct lg_screen *s, int row, int end, const struct lg_row *selected)
{
    char name[LG_NAME_MAX];
    struct lg_canvas *c = &s->canvas;
    lg_screen_separator(s, row, lg_screen_key_text(&selected->key, 0, name, sizeof(name)));
    const struct lg_detail *d =
        lg_top_row_detail(s->top, s->worker, &s->view, selected, LG_BANDS_COARSE, s->order);
    if (d == NULL) {
        return;
    }
    bool wide = lg_screen_wide(s);
    bool both = c->columns >= 76;
    int left = wide ? 52 : both ? 40 : c->columns;
    int middle = wide ? 44 : c->columns - left;
    lg_canvas_printf(c, row + 1, 2, LG_STYLE_BOLD, "Time on the loop per step, %s",
                     d->band_source == LG_QUANTILE_TOTAL ? "total"
                                                         : lg_window_text(s->view.window));
    lg_screen_bands(s, row + 2, 1, left - 2, end - row - 3, d);
    if (both) {
        lg_canvas_put(c, row + 1, left + 2, LG_STYLE_BOLD, "Blocked time, last 60 s");
        lg_screen_timeline(s, row + 2, left - 1, middle, 6,
                           d->series_blocked_ns + (LG_LONG_SERIES - LG_SERIES), LG_SERIES);
    }
    if (wide) {
        lg_canvas_printf(c, row + 1, left + middle + 2, LG_STYLE_BOLD, "Blocking stacks, %s",
                         lg_window_text(s->view.window));
        short_stacks(s, row + 2, left + middle + 1, end - 1, d);
    }
}

/* "1.71s  89% 4x  render_pdf app/reports.py:88", then its callers. */
static void
short_stacks(struct lg_screen *s, int row, int column, int end, const struct lg_detail *d)
{
    struct lg_canvas *c = &s->canvas;
    char time[LG_TEXT];
    char frame[LG_LINE_MAX];
    int room = c->columns - column - 16;
    for (size_t i = 0; i < d->stack_count && row < end; i++) {
        const struct lg_weighted_stack *w = &d->stacks[i];
        const struct lg_stack_view *stack = lg_screen_weighted(w);
        lg_canvas_printf(c, row, column, LG_STYLE_NORMAL, "%6s %3.0f%% %" PRIu64 "x",
                         lg_format_duration(w->total_ns, time, sizeof(time)), w->share * 100,
                         w->count);
        /* The first stack gets what the others leave; one line each for them. */
        int others = (int)(d->stack_count - i - 1);
        int lines = i > 0 ? 1 : end - row - (others > 3 ? 3 : others);
        lines = lines < 1 ? 1 : lines;
        int drawn = 0;
        for (uint32_t k = 0; k < stack->depth && drawn < lines && row < end; k++) {
            const struct lg_stack_frame *f = &stack->frame[k];
            if (k > 0 && f->origin != LG_ORIGIN_USER) {
                continue;
            }
            lg_screen_frame_text(f, frame, sizeof(frame));
            lg_canvas_field(c, row++, column + 16, room, LG_STYLE_NORMAL, frame);
            drawn++;
        }
        if (drawn == 0) {
            lg_canvas_put(c, row++, column + 16, LG_STYLE_DIM, "no stack was taken");
        }
    }
    if (d->stack_count == 0) {
        lg_canvas_put(c, row, column + 1, LG_STYLE_DIM, "none seen");
    }
}

/* ---- one stack --------------------------------------------------------- */

void
lg_screen_stack(struct lg_screen *s)
{
    char left[LG_LINE_MAX + 80];
    struct lg_list *list = &s->list[LG_PAGE_STACK];
    int height = s->canvas.rows;
    int at = lg_screen_title_start(s, lg_screen_worker(s), left, sizeof(left));
    if (at >= 0 && (size_t)at < sizeof(left)) {
        snprintf(left + at, sizeof(left) - (size_t)at, "   Stack");
    }
    lg_screen_title(s, 0, left);
    lg_canvas_field(&s->canvas, 1, 1, s->canvas.columns - 2, LG_STYLE_BOLD, s->stack_title);
    lg_canvas_put(&s->canvas, 2, 1, LG_STYLE_DIM,
                  s->stack.moving ? "innermost first; the innermost frames changed while it lasted"
                                  : "innermost first");
    int rows = height - 5;
    int lines = lg_screen_frames(s, 0, 1, 0, 0, -1, &s->stack);
    lg_list_fit(list, (size_t)lines, 3, rows);
    lg_screen_frames(s, 3, 2, rows, (int)list->first, (int)list->at, &s->stack);
    lg_screen_frame_place(s, &s->stack, (int)list->at, s->copy, sizeof(s->copy));
    lg_canvas_field(&s->canvas, height - 2, 1, s->canvas.columns - 2, LG_STYLE_DIM, s->copy);
    lg_screen_bottom(s, "?Help  q Back  f Fold frames  y path:line  Space Pause");
}

static const char *
order_text(enum lg_stack_order order)
{
    static const char *const texts[] = {"time", "count", "max", "last"};
    return texts[order];
}
