/*
 * screen_pool.c - the thread pool of a worker: how busy, how long requests
 * wait for a thread, which endpoints use it, which threads do not come back.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "screen_parts.h"

/* An endpoint's part in the pool. */
struct use {
    struct lg_key key;
    uint64_t wait_ns;
    uint64_t run_ns;
};

static void draw_numbers(struct lg_screen *s, const struct lg_pool_view *p);
static int draw_stuck(struct lg_screen *s, int row, int end, const struct lg_pool_view *p);
static void draw_endpoints(struct lg_screen *s, int row, int end);
static int by_wait(const void *a, const void *b);

void
lg_screen_pool(struct lg_screen *s)
{
    const struct lg_worker *worker = lg_screen_worker(s);
    struct lg_list *list = &s->list[LG_PAGE_POOL];
    char left[LG_LINE_MAX];
    int height = s->canvas.rows;
    /* Merged: the pool is a worker's own; show the first. */
    if (worker == NULL && s->top->worker_count > 0) {
        worker = s->top->workers[0];
    }
    int at = lg_screen_title_start(s, worker, left, sizeof(left));
    if (at >= 0 && (size_t)at < sizeof(left)) {
        snprintf(left + at, sizeof(left) - (size_t)at, "   Thread pool");
    }
    lg_screen_title(s, 0, left);
    s->copy[0] = '\0';
    if (worker == NULL || !worker->pool.seen) {
        lg_canvas_put(&s->canvas, 2, 2, LG_STYLE_DIM,
                      "no thread pool has been used in this worker yet");
        lg_list_fit(list, 0, 0, 0);
    }
    else {
        draw_numbers(s, &worker->pool);
        lg_list_fit(list, worker->pool.stuck_count, -1, (int)worker->pool.stuck_count);
        int row = draw_stuck(s, 7, height - 5, &worker->pool);
        draw_endpoints(s, row + 1, height - 1);
    }
    lg_screen_bottom(s,
                     "?Help  q Back  Up Down Stuck thread  Enter Stack  Tab Next screen"
                     "  Space Pause");
}

static void
draw_numbers(struct lg_screen *s, const struct lg_pool_view *p)
{
    struct lg_canvas *c = &s->canvas;
    char a[LG_TEXT];
    char b[LG_TEXT];
    char e[LG_TEXT];
    char g[LG_TEXT];
    char h[LG_TEXT];
    char text[LG_LINE_MAX];
    double share = p->limit > 0 ? (double)p->busy / (double)p->limit : 0;
    bool full = p->limit > 0 && p->busy >= p->limit;
    int at = lg_canvas_printf(c, 1, 1, full ? LG_STYLE_WARNING : LG_STYLE_NORMAL,
                              "Busy  %" PRIu64 " of %" PRIu64 " ", p->busy, p->limit);
    snprintf(text, sizeof(text), "%" PRIu64 " waiting   high water %" PRIu64, p->waiting,
             p->high_water);
    int end = lg_canvas_right(c, 1, c->columns - 1,
                              p->waiting > 0 ? LG_STYLE_WARNING : LG_STYLE_NORMAL, text);
    lg_screen_bar(s, 1, at, end - 3 - at, share);
    snprintf(
        text, sizeof(text),
        "Full  %s times   now %s%s   most waiting %s   submitted %s   finished %s",
        lg_format_count(p->times_full, a, sizeof(a)), p->full_for_ns == LG_NONE ? "not" : "for ",
        p->full_for_ns == LG_NONE ? "" : lg_format_duration(p->full_for_ns, b, sizeof(b)),
        lg_format_count(p->waiting_high_water, e, sizeof(e)),
        lg_format_count(p->submitted, g, sizeof(g)), lg_format_count(p->finished, h, sizeof(h)));
    lg_canvas_field(c, 2, 1, c->columns - 2, LG_STYLE_NORMAL, text);
    uint64_t n = p->finished;
    snprintf(text, sizeof(text), "Wait  mean %s   p50 %s   p90 %s   p99 %s   max %s",
             lg_format_duration(n > 0 ? p->wait_sum_ns / n : LG_NONE, a, sizeof(a)),
             lg_screen_us_text(p->wait.p50_us, b, sizeof(b)),
             lg_screen_us_text(p->wait.p90_us, e, sizeof(e)),
             lg_screen_us_text(p->wait.p99_us, g, sizeof(g)),
             lg_format_duration(p->wait_max_ns, h, sizeof(h)));
    lg_canvas_field(c, 3, 1, c->columns - 2, LG_STYLE_NORMAL, text);
    snprintf(text, sizeof(text), "Run   mean %s   max %s",
             lg_format_duration(n > 0 ? p->run_sum_ns / n : LG_NONE, a, sizeof(a)),
             lg_format_duration(p->run_max_ns, b, sizeof(b)));
    lg_canvas_field(c, 4, 1, c->columns - 2, LG_STYLE_NORMAL, text);
}

static int
draw_stuck(struct lg_screen *s, int row, int end, const struct lg_pool_view *p)
{
    struct lg_canvas *c = &s->canvas;
    const struct lg_list *list = &s->list[LG_PAGE_POOL];
    char text[LG_NAME_MAX + LG_LINE_MAX];
    char name[LG_NAME_MAX];
    char time[LG_TEXT];
    char frame[LG_LINE_MAX];
    lg_canvas_put(c, row - 1, 1, LG_STYLE_BOLD, "Threads that run long");
    if (p->stuck_count == 0) {
        lg_canvas_put(c, row - 1, 22, LG_STYLE_DIM, ": none");
        return row;
    }
    for (size_t i = 0; i < p->stuck_count && row < end; i++) {
        bool selected = i == list->at;
        const struct lg_stack_frame *user = lg_stack_user_frame(&p->stuck[i].stack);
        lg_screen_frame_text(user, frame, sizeof(frame));
        snprintf(text, sizeof(text), "%8s  thread %-8u %s   %s",
                 lg_format_duration(p->stuck[i].for_ns, time, sizeof(time)), p->stuck[i].tid,
                 lg_screen_key_text(&p->stuck[i].key, 0, name, sizeof(name)), frame);
        lg_canvas_field(c, row, 1, c->columns - 2, selected ? LG_STYLE_BOLD : LG_STYLE_NORMAL,
                        text);
        lg_canvas_put(c, row, 0, LG_STYLE_BOLD, selected ? ">" : " ");
        row++;
        if (selected) {
            int others = (int)(p->stuck_count - i - 1);
            int room = end - row - others;
            room = room > 6 ? 6 : room;
            if (user != NULL) {
                snprintf(s->copy, sizeof(s->copy), "%.400s:%u", user->file, user->line);
            }
            int lines = lg_screen_frames(s, row, 12, room, 0, -1, &p->stuck[i].stack);
            row += lines > room ? (room > 0 ? room : 0) : lines;
        }
    }
    return row;
}

/* Endpoints by the time their calls waited for a thread. */
static void
draw_endpoints(struct lg_screen *s, int row, int end)
{
    struct lg_canvas *c = &s->canvas;
    const struct lg_row *rows;
    struct lg_view view = s->view;
    view.top = 0;
    view.window = LG_WINDOW_TOTAL;
    size_t count = lg_top_rows(s->top, s->worker, &view, &rows);
    struct use *use = calloc(count + 1, sizeof(*use));
    size_t kept = 0;
    if (use == NULL || row >= end) {
        free(use);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const struct lg_detail *d =
            lg_top_row_detail(s->top, s->worker, &view, &rows[i], LG_BANDS_COARSE, s->order);
        if (d != NULL && d->pool_run_ns > 0) {
            use[kept++] = (struct use){rows[i].key, d->pool_wait_ns, d->pool_run_ns};
        }
    }
    qsort(use, kept, sizeof(*use), by_wait);
    lg_canvas_fill(c, row, 0, c->columns, LG_STYLE_HEADING, " ");
    lg_canvas_printf(c, row, 2, LG_STYLE_HEADING, "   WAITED%s      RAN  ENDPOINT   (total)",
                     s->glyphs->one[LG_GLYPH_DESCENDING]);
    for (size_t i = 0; i < kept && row + 1 + (int)i < end; i++) {
        char text[LG_NAME_MAX + 16];
        char time[LG_TEXT];
        int line = row + 1 + (int)i;
        int at = lg_canvas_field_right(c, line, 2, 9, LG_STYLE_NORMAL,
                                       lg_format_duration(use[i].wait_ns, time, sizeof(time)));
        at = lg_canvas_field_right(c, line, at, 10, LG_STYLE_NORMAL,
                                   lg_format_duration(use[i].run_ns, time, sizeof(time)));
        lg_screen_key_text(&use[i].key, 5, text, sizeof(text));
        lg_canvas_field(c, line, at + 2, c->columns - at - 2, LG_STYLE_NORMAL, text);
    }
    free(use);
}

static int
by_wait(const void *a, const void *b)
{
    const struct use *x = a;
    const struct use *y = b;
    return x->wait_ns != y->wait_ns ? (x->wait_ns < y->wait_ns ? 1 : -1)
                                    : strcmp(x->key.name, y->key.name);
}
