/*
 * screen_events.c - every block kept, newest first, and one of them in full.
 *
 * With follow on (at start) the cursor stays on the newest; moving it turns
 * follow off, and it then stays on its event while new ones push it down.
 */
#include <inttypes.h>
#include <string.h>

#include "screen_parts.h"

static void draw_title(struct lg_screen *s);
static void draw_heading(struct lg_screen *s, int row);
static void draw_event(struct lg_screen *s, int row, const struct lg_event *e, bool selected);
static void draw_mark(struct lg_screen *s, int row, const struct lg_event *e);
static void draw_pane(struct lg_screen *s, int row, int end, const struct lg_event *e);
static void keep_event(struct lg_screen *s, const struct lg_event *events, size_t count);
static void event_title(const struct lg_screen *s, const struct lg_event *e, char *out,
                        size_t size);

void
lg_screen_events(struct lg_screen *s)
{
    const struct lg_event *events;
    struct lg_list *list = &s->list[LG_PAGE_EVENTS];
    int height = s->canvas.rows;
    bool wide = lg_screen_wide(s);
    size_t count = lg_top_events(s->top, s->worker, &s->view, &events);
    int foot = height >= 10 ? 2 : 1;
    int pane = height >= LG_TALL ? 13 : height >= 20 ? 5 : 0;
    keep_event(s, events, count);
    lg_list_fit(list, count, 2, height - 2 - foot - pane);
    draw_title(s);
    draw_heading(s, 1);
    for (size_t i = 0; i < list->visible && list->first + i < count; i++) {
        size_t at = list->first + i;
        draw_event(s, 2 + (int)i, &events[at], at == list->at);
    }
    if (count == 0) {
        lg_canvas_put(&s->canvas, 2, 2, LG_STYLE_DIM, "no block has been seen");
    }
    s->copy[0] = '\0';
    if (list->at < count) {
        const struct lg_event *e = &events[list->at];
        s->event_ticket = e->ticket;
        s->event_worker = e->worker;
        if (e->user != NULL) {
            snprintf(s->copy, sizeof(s->copy), "%.400s:%u", e->user->file, e->user->line);
        }
        if (pane > 0 && e->kind != LG_EVENT_MARK) {
            draw_pane(s, height - foot - pane, height - foot, e);
        }
    }
    if (foot == 2) {
        char ms[LG_TEXT];
        char text[LG_LINE_MAX];
        bool filtered = s->view.filter != NULL && s->view.filter[0] != '\0';
        snprintf(text, sizeof(text), "min %sms   filter %.100s   follow %s%s",
                 s->view.min_ns > 0 ? lg_format_ms(s->view.min_ns, ms, sizeof(ms)) : "0",
                 filtered ? s->view.filter : "(none)",
                 s->follow_events ? "on: new events appear at the top" : "off (F: on)",
                 wide && s->follow_events ? "; moving the cursor turns it off" : "");
        lg_canvas_field(&s->canvas, height - 2, 1, s->canvas.columns - 2, LG_STYLE_DIM, text);
    }
    lg_screen_bottom(
        s, wide ? "?Help  q Back  f Fold  F Follow  T Min ms  / Search  & Filter  Enter Endpoint"
                  "  w Save  Space Pause   Q Quit"
                : "?Help  q Back  F Follow  T Min ms  / Search  & Filter  Enter Detail  w Save");
}

static void
draw_title(struct lg_screen *s)
{
    char left[LG_LINE_MAX];
    char a[LG_TEXT];
    char b[LG_TEXT];
    char c[LG_TEXT];
    uint64_t seen;
    uint64_t kept;
    uint64_t lost;
    lg_top_event_counts(s->top, s->worker, &seen, &kept, &lost);
    int at = lg_screen_title_start(s, lg_screen_worker(s), left, sizeof(left));
    if (at >= 0 && (size_t)at < sizeof(left)) {
        snprintf(left + at, sizeof(left) - (size_t)at,
                 lg_screen_wide(s) ? "   Events   %s seen   newest %s kept   %s lost"
                                   : "   Events   %s seen, newest %s kept, %s lost",
                 lg_format_count(seen, a, sizeof(a)), lg_format_count(kept, b, sizeof(b)),
                 lg_format_count(lost, c, sizeof(c)));
    }
    lg_screen_title(s, 0, left);
}

static void
draw_heading(struct lg_screen *s, int row)
{
    struct lg_canvas *c = &s->canvas;
    lg_canvas_fill(c, row, 0, c->columns, LG_STYLE_HEADING, " ");
    lg_canvas_printf(c, row, 2, LG_STYLE_HEADING, "TIME%s", s->glyphs->one[LG_GLYPH_DESCENDING]);
    lg_canvas_put(c, row, 17, LG_STYLE_HEADING, "BLOCKED");
    if (lg_screen_wide(s)) {
        lg_canvas_put(c, row, 26, LG_STYLE_HEADING, "WAITING");
        lg_canvas_put(c, row, 35, LG_STYLE_HEADING, "METHOD");
        lg_canvas_put(c, row, 42, LG_STYLE_HEADING, "ENDPOINT");
        lg_canvas_put(c, row, 69, LG_STYLE_HEADING,
                      s->worker == LG_ALL_WORKERS ? "WORKER" : "REQUEST");
        lg_canvas_put(c, row, 78, LG_STYLE_HEADING, "INNERMOST FRAME");
        lg_canvas_put(c, row, 107, LG_STYLE_HEADING, "YOUR CODE");
    }
    else {
        lg_canvas_put(c, row, 26, LG_STYLE_HEADING, "ENDPOINT");
        lg_canvas_put(c, row, 55, LG_STYLE_HEADING, "INNERMOST FRAME");
    }
}

static void
draw_event(struct lg_screen *s, int row, const struct lg_event *e, bool selected)
{
    struct lg_canvas *c = &s->canvas;
    char text[LG_NAME_MAX + 40];
    char time[LG_TEXT];
    if (e->kind == LG_EVENT_MARK) {
        draw_mark(s, row, e);
    }
    else {
        lg_canvas_put(c, row, 2, LG_STYLE_NORMAL,
                      lg_format_clock(e->real_ns, 0, true, time, sizeof(time)));
        lg_format_duration(e->duration_ns, text, sizeof(text));
        lg_canvas_field_right(c, row, 15, 9,
                              lg_screen_duration_style(e->duration_ns, e->threshold_ns), text);
        lg_canvas_put(c, row, 24, LG_STYLE_NORMAL, e->ongoing ? "+" : e->torn ? "~" : " ");
        if (lg_screen_wide(s)) {
            lg_format_count(e->waited_requests, text, sizeof(text));
            lg_canvas_field_right(c, row, 26, 7, LG_STYLE_NORMAL, text);
            lg_canvas_field(c, row, 35, 6, LG_STYLE_NORMAL,
                            lg_format_label(e->key.kind, e->key.method, e->key.name));
            lg_canvas_field(c, row, 42, 26, LG_STYLE_NORMAL,
                            e->key.name != NULL ? e->key.name : "");
            snprintf(text, sizeof(text), "-");
            if (s->worker == LG_ALL_WORKERS && e->worker < s->top->worker_count) {
                snprintf(text, sizeof(text), "%s", s->top->workers[e->worker]->label);
            }
            else if (e->request_id != 0) {
                snprintf(text, sizeof(text), "%08x", e->request_id);
            }
            lg_canvas_field(c, row, 69, 8, LG_STYLE_NORMAL, text);
            lg_screen_frame_short(e->innermost, text, sizeof(text));
            lg_canvas_field(c, row, 78, 28, LG_STYLE_NORMAL, text);
            lg_screen_frame_text(e->user, text, sizeof(text));
            lg_canvas_field(c, row, 107, c->columns - 107, LG_STYLE_NORMAL,
                            e->user != NULL && e->user->origin == LG_ORIGIN_USER ? text : "-");
        }
        else {
            lg_screen_key_text(&e->key, 4, text, sizeof(text));
            lg_canvas_field(c, row, 26, c->columns >= 70 ? 28 : c->columns - 26, LG_STYLE_NORMAL,
                            text);
            lg_screen_frame_short(e->innermost, text, sizeof(text));
            if (c->columns >= 70) {
                lg_canvas_field(c, row, 55, c->columns - 55, LG_STYLE_NORMAL, text);
            }
        }
    }
    if (selected) {
        lg_canvas_put(c, row, 0, LG_STYLE_BOLD, ">");
        lg_canvas_restyle(c, row, 0, c->columns, LG_STYLE_SELECTED);
    }
}

/* "--------- 14:00:58  worker started (pid 41207) ---------". */
static void
draw_mark(struct lg_screen *s, int row, const struct lg_event *e)
{
    struct lg_canvas *c = &s->canvas;
    char text[LG_LINE_MAX];
    char time[LG_TEXT];
    lg_canvas_fill(c, row, 2, c->columns - 2, LG_STYLE_DIM, "-");
    snprintf(text, sizeof(text), " %s  %.200s ",
             lg_format_clock(e->real_ns, s->top->now_real_ns, false, time, sizeof(time)),
             e->mark != NULL ? e->mark : "");
    lg_canvas_field(c, row, lg_screen_wide(s) ? 42 : 16, (int)lg_format_columns(text),
                    LG_STYLE_NORMAL, text);
}

static void
draw_pane(struct lg_screen *s, int row, int end, const struct lg_event *e)
{
    struct lg_event_detail d;
    char title[LG_NAME_MAX + 160];
    char text[LG_LINE_MAX];
    char line[2 * LG_LINE_MAX];
    struct lg_canvas *c = &s->canvas;
    event_title(s, e, title, sizeof(title));
    bool tall = end - row > 6;
    if (tall) {
        lg_screen_separator(s, row++, title);
        row++;
    }
    else {
        lg_canvas_field(c, row++, 1, c->columns - 2, LG_STYLE_BOLD, title);
    }
    if (!lg_top_event_detail(s->top, e, &d)) {
        lg_canvas_put(c, row, 3, LG_STYLE_DIM, "its record has been overwritten");
        return;
    }
    int keep = tall ? 5 : 0;
    int rows = end - row - keep;
    int lines = lg_screen_frames(s, row, 3, rows, 0, -1, &d.stack);
    row += lines < rows ? (lines < 1 ? 1 : lines) : rows;
    if (!tall) {
        return;
    }
    row++;
    lg_screen_parts_text(d.parts_ns, text, sizeof(text));
    snprintf(line, sizeof(line), "Cause: %s%s%s%s%s%s", lg_format_cause(e->cause),
             d.call != NULL && d.call[0] != '\0' ? ", in " : "", d.call != NULL ? d.call : "",
             text[0] != '\0' ? "   parts: " : "", text,
             (e->flags & LG_STALL_THROTTLED) != 0 ? "   (the cgroup was throttled)" : "");
    lg_canvas_field(c, row++, 3, c->columns - 4, LG_STYLE_NORMAL, line);
    snprintf(line, sizeof(line), "%s   task %s   thread %s (native %u)   seen %" PRIu64 " times",
             lg_format_stall_kind(e->kind), d.task[0] != '\0' ? d.task : "-",
             d.thread != NULL && d.thread[0] != '\0' ? d.thread : "-", d.tid, d.samples);
    if (row < end) {
        lg_canvas_field(c, row++, 3, c->columns - 4, LG_STYLE_NORMAL, line);
    }
    if (row < end && d.waited.requests != LG_NONE && d.waited.requests > 0) {
        char longest[LG_TEXT];
        lg_screen_waiting_text(&d.waited, ", ", false, text, sizeof(text));
        bool known = d.waited.longest_ns != LG_NONE;
        lg_format_duration_wide(d.waited.longest_ns, longest, sizeof(longest));
        snprintf(line, sizeof(line), "Waiting behind it: %" PRIu64 " request%s%s%s%s%s",
                 d.waited.requests, d.waited.requests == 1 ? "" : "s", known ? ", longest " : "",
                 known ? longest : "", text[0] != '\0' ? ": " : "", text);
        lg_canvas_field(c, row++, 3, c->columns - 4, LG_STYLE_NORMAL, line);
    }
    if (row < end && d.holder.name != NULL) {
        char name[LG_NAME_MAX];
        lg_screen_frame_text(lg_stack_user_frame(&d.holder_stack), text, sizeof(text));
        snprintf(line, sizeof(line), "The GIL was held by %s   %.200s",
                 lg_screen_key_text(&d.holder, 0, name, sizeof(name)), text);
        lg_canvas_field(c, row, 3, c->columns - 4, LG_STYLE_WARNING, line);
    }
}

/* "14:02:31.408  POST /reports/{id}  blocked 1.27 s, still blocked". */
static void
event_title(const struct lg_screen *s, const struct lg_event *e, char *out, size_t size)
{
    char name[LG_NAME_MAX];
    char time[LG_TEXT];
    char blocked[LG_TEXT];
    const char *pid = s->worker == LG_ALL_WORKERS && e->worker < s->top->worker_count
                          ? s->top->workers[e->worker]->label
                          : "";
    snprintf(out, size, "%s%s%s  %s  blocked %s%s", pid, pid[0] != '\0' ? "  " : "",
             lg_format_clock(e->real_ns, s->top->now_real_ns, true, time, sizeof(time)),
             lg_screen_key_text(&e->key, 0, name, sizeof(name)),
             lg_format_duration_wide(e->duration_ns, blocked, sizeof(blocked)),
             e->torn      ? ", torn: the worker died while it wrote this"
             : e->ongoing ? ", still blocked"
                          : "");
}

static void
keep_event(struct lg_screen *s, const struct lg_event *events, size_t count)
{
    struct lg_list *list = &s->list[LG_PAGE_EVENTS];
    if (s->follow_events) {
        list->at = 0;
        list->first = 0;
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (events[i].kind != LG_EVENT_MARK && events[i].ticket == s->event_ticket &&
            events[i].worker == s->event_worker) {
            list->at = i;
            return;
        }
    }
}
