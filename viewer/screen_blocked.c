/*
 * screen_blocked.c - what holds the loop at this moment, or held it when the
 * worker died. Drawn ten times a second while it lasts.
 */
#include <inttypes.h>
#include <string.h>

#include "screen_parts.h"

static const struct lg_worker *blocked_worker(const struct lg_screen *s);
static void draw_box(struct lg_screen *s, int row, const struct lg_worker *worker);
static void box_line(struct lg_screen *s, int row, const char *text, enum lg_style style);
static int draw_below(struct lg_screen *s, int row, int end, const struct lg_worker *worker);
static void draw_earlier(struct lg_screen *s, int row, const struct lg_worker *worker);
static void draw_nothing(struct lg_screen *s, const struct lg_worker *worker);

#define BOX_ROWS 7

void
lg_screen_blocked(struct lg_screen *s)
{
    const struct lg_worker *worker = blocked_worker(s);
    struct lg_list *list = &s->list[LG_PAGE_BLOCKED];
    int height = s->canvas.rows;
    char left[LG_LINE_MAX];
    int at = lg_screen_title_start(s, worker, left, sizeof(left));
    if (worker != NULL && at >= 0 && (size_t)at < sizeof(left)) {
        snprintf(left + at, sizeof(left) - (size_t)at, " %s", worker->app);
    }
    lg_screen_title(s, 0, left);
    s->copy[0] = '\0';
    if (worker == NULL || !(worker->blocked.active || worker->blocked.at_death)) {
        draw_nothing(s, worker);
        lg_list_fit(list, 0, 0, 0);
    }
    else {
        const struct lg_blocked *b = &worker->blocked;
        int top = height >= 20 ? 2 : 1;
        draw_box(s, top, worker);
        int row = top + BOX_ROWS;
        lg_canvas_put(&s->canvas, row, 1, LG_STYLE_BOLD, "Stack (innermost first)");
        if (b->samples != LG_NONE && b->samples > 0) {
            char time[LG_TEXT];
            lg_canvas_printf(&s->canvas, row, 24, LG_STYLE_NORMAL,
                             b->stack.moving ? ", moving, seen %" PRIu64 " times in %s"
                                             : ", seen %" PRIu64 " times in %s",
                             b->samples, lg_format_duration_wide(b->for_ns, time, sizeof(time)));
        }
        int lines = lg_screen_frames(s, 0, 1, 0, 0, -1, &b->stack);
        /* What stands below wants eight rows, the stack the rest. */
        int rows = height - row - 1 - 8;
        rows = rows < 3 ? height - row - 2 : rows;
        lg_list_fit(list, (size_t)lines, row + 1, rows);
        lg_screen_frames(s, row + 1, 2, rows, (int)list->first, (int)list->at, &b->stack);
        lg_screen_frame_place(s, &b->stack, (int)list->at, s->copy, sizeof(s->copy));
        lines = lines < 1 ? 1 : lines > rows ? rows : lines;
        draw_below(s, row + 1 + lines + 1, height - 1, worker);
    }
    lg_screen_bottom(s,
                     "?Help  q Back  f Fold frames  Space Pause  w Save snapshot  Enter Endpoint");
}

/* The worker looked at when it is blocked, else the one that is worst off. */
static const struct lg_worker *
blocked_worker(const struct lg_screen *s)
{
    const struct lg_worker *worker = lg_screen_worker(s);
    if (worker != NULL && (worker->blocked.active || worker->blocked.at_death)) {
        return worker;
    }
    const struct lg_banner *worst = lg_top_banner(s->top);
    if (worst != NULL && worst->kind == LG_BANNER_BLOCKED && worst->worker < s->top->worker_count) {
        return s->top->workers[worst->worker];
    }
    return worker;
}

static void
draw_box(struct lg_screen *s, int row, const struct lg_worker *worker)
{
    struct lg_canvas *c = &s->canvas;
    const struct lg_blocked *b = &worker->blocked;
    const struct lg_glyphs *g = s->glyphs;
    char text[2 * LG_LINE_MAX + LG_NAME_MAX];
    char name[LG_NAME_MAX];
    char time[LG_TEXT];
    char ms[LG_TEXT];
    char alarm[LG_TEXT];
    int end = c->columns - 1;
    enum lg_style style = b->for_ns >= LG_ALARM_NS ? LG_STYLE_RED : LG_STYLE_WARNING;
    for (int i = 0; i < BOX_ROWS; i++) {
        lg_canvas_put(c, row + i, 1, LG_STYLE_DIM, g->one[LG_GLYPH_VERTICAL]);
        lg_canvas_put(c, row + i, end - 1, LG_STYLE_DIM, g->one[LG_GLYPH_VERTICAL]);
    }
    for (int i = 0; i < BOX_ROWS; i += BOX_ROWS - 1) {
        lg_canvas_fill(c, row + i, 2, end - 1, LG_STYLE_DIM, g->one[LG_GLYPH_HORIZONTAL]);
        lg_canvas_put(c, row + i, 1, LG_STYLE_DIM,
                      g->one[i == 0 ? LG_GLYPH_TOP_LEFT : LG_GLYPH_BOTTOM_LEFT]);
        lg_canvas_put(c, row + i, end - 1, LG_STYLE_DIM,
                      g->one[i == 0 ? LG_GLYPH_TOP_RIGHT : LG_GLYPH_BOTTOM_RIGHT]);
    }
    lg_canvas_put(c, row, 3, style, b->at_death ? " IT DIED IN THIS " : " BLOCKED RIGHT NOW ");
    snprintf(text, sizeof(text),
             b->at_death ? "%s   until the last heartbeat   threshold %s ms   alarm at %s"
                         : "%s   and counting        threshold %s ms        alarm at %s",
             lg_format_duration_wide(b->for_ns, time, sizeof(time)),
             lg_format_ms(b->threshold_ns, ms, sizeof(ms)),
             lg_format_duration_wide(LG_ALARM_NS, alarm, sizeof(alarm)));
    box_line(s, row + 1, text, style);
    uint64_t longest = b->longest_seen_ns > b->for_ns ? b->longest_seen_ns : b->for_ns;
    snprintf(text, sizeof(text), "%s max", lg_format_duration(longest, time, sizeof(time)));
    int right = lg_canvas_right(c, row + 2, end - 3, LG_STYLE_NORMAL, text) - 1;
    int full = right - 5 > 0 && longest > 0
                   ? (int)((double)(right - 6) * (double)b->for_ns / (double)longest)
                   : 0;
    lg_canvas_put(c, row + 2, 4, LG_STYLE_NORMAL, "[");
    lg_canvas_fill(c, row + 2, 5, right - 1, LG_STYLE_DIM, g->one[LG_GLYPH_SHADE]);
    lg_canvas_fill(c, row + 2, 5, 5 + full, style, g->one[LG_GLYPH_FULL]);
    lg_canvas_put(c, row + 2, right - 1, LG_STYLE_NORMAL, "]");
    lg_screen_key_text(&b->key, 0, name, sizeof(name));
    char request[LG_TEXT] = "";
    if (b->request_id != 0) {
        snprintf(request, sizeof(request), "      request %08x", b->request_id);
    }
    char waiting[80] = "";
    if (b->waiting.requests != LG_NONE) {
        snprintf(waiting, sizeof(waiting), "   %" PRIu64 " request%s behind it",
                 b->waiting.requests, b->waiting.requests == 1 ? " waits" : "s wait");
    }
    snprintf(text, sizeof(text), "%s%s%s", name, request, waiting);
    box_line(s, row + 4, text, LG_STYLE_BOLD);
    snprintf(text, sizeof(text), "task  %s         thread %s (native %u)%s%s",
             b->task[0] != '\0' ? b->task : "-",
             b->thread != NULL && b->thread[0] != '\0' ? b->thread : "-", b->tid,
             b->torn ? "   (its line was being written)" : "",
             b->kind == LG_STALL_ITERATION ? "   many callbacks together" : "");
    box_line(s, row + 5, text, LG_STYLE_NORMAL);
}

static void
box_line(struct lg_screen *s, int row, const char *text, enum lg_style style)
{
    lg_canvas_field(&s->canvas, row, 4, s->canvas.columns - 7, style, text);
}

/* Cause, who holds the GIL, who waits, earlier blocks, the reminder. */
static int
draw_below(struct lg_screen *s, int row, int end, const struct lg_worker *worker)
{
    struct lg_canvas *c = &s->canvas;
    const struct lg_blocked *b = &worker->blocked;
    char text[LG_LINE_MAX];
    char name[LG_NAME_MAX];
    char line[2 * LG_LINE_MAX + LG_NAME_MAX];
    char time[LG_TEXT];
    int width = c->columns - 2;
    lg_screen_parts_text(b->parts_ns, text, sizeof(text));
    if (row < end && (b->cause != LG_CAUSE_UNKNOWN || text[0] != '\0')) {
        snprintf(line, sizeof(line), "Cause: %s%s%s%s%s", lg_format_cause(b->cause),
                 b->call != NULL && b->call[0] != '\0' ? ", in " : "",
                 b->call != NULL ? b->call : "", text[0] != '\0' ? "   parts: " : "", text);
        lg_canvas_field(c, row++, 1, width, LG_STYLE_NORMAL, line);
    }
    if (row < end && b->holder.name != NULL) {
        char frame[LG_LINE_MAX];
        lg_screen_frame_text(lg_stack_user_frame(&b->holder_stack), frame, sizeof(frame));
        snprintf(line, sizeof(line), "The GIL is held by %s   %s",
                 lg_screen_key_text(&b->holder, 0, name, sizeof(name)), frame);
        lg_canvas_field(c, row++, 1, width, LG_STYLE_WARNING, line);
    }
    if (row < end && b->waiting.requests != LG_NONE && b->waiting.requests > 0) {
        int n = snprintf(line, sizeof(line), "Waiting behind it: %" PRIu64 " request%s",
                         b->waiting.requests, b->waiting.requests == 1 ? "" : "s");
        if (b->waiting.longest_ns != LG_NONE && n > 0) {
            snprintf(line + n, sizeof(line) - (size_t)n, ", oldest %s",
                     lg_format_duration_wide(b->waiting.longest_ns, time, sizeof(time)));
        }
        lg_canvas_field(c, row++, 1, width, LG_STYLE_BOLD, line);
        lg_screen_waiting_text(&b->waiting, "   ", false, text, sizeof(text));
        if (row < end && text[0] != '\0') {
            lg_canvas_field(c, row++, 5, width - 4, LG_STYLE_NORMAL, text);
        }
    }
    if (row + 1 < end) {
        draw_earlier(s, ++row, worker);
        row++;
    }
    if (row + 1 < end) {
        row++;
        lg_canvas_field(c, row++, 1, width, LG_STYLE_DIM,
                        b->at_death ? "The last step was never finished: the worker was killed or "
                                      "crashed inside it."
                                    : "The worker cannot answer while it is blocked; this view "
                                      "reads its memory only.");
    }
    return row;
}

/* "Earlier blocks of this endpoint: 1.84s (00:12 ago)  1.02s (01:40)". */
static void
draw_earlier(struct lg_screen *s, int row, const struct lg_worker *worker)
{
    const struct lg_detail *d;
    char text[LG_LINE_MAX] = "Earlier blocks of this endpoint:";
    size_t shown = 0;
    const struct lg_blocked *b = &worker->blocked;
    size_t index = worker->banner.worker;
    if (!lg_top_detail(s->top, index, &s->view, &b->key, LG_BANDS_COARSE, s->order, &d)) {
        return;
    }
    for (size_t i = 0; i < d->earlier_count; i++) {
        char time[LG_TEXT];
        char age[LG_TEXT];
        const struct lg_event *e = &d->earlier[i];
        char one[2 * LG_TEXT + 8];
        size_t n = strlen(text);
        uint64_t ended = e->mono_ns + e->duration_ns;
        snprintf(
            one, sizeof(one), "  %s (%s%s)", lg_format_duration(e->duration_ns, time, sizeof(time)),
            lg_format_age(s->top->now_ns > ended ? s->top->now_ns - ended : 0, age, sizeof(age)),
            shown == 0 ? " ago" : "");
        if (e->ongoing || (int)(n + strlen(one)) > s->canvas.columns - 2) {
            continue;
        }
        snprintf(text + n, sizeof(text) - n, "%s", one);
        shown++;
    }
    lg_canvas_field(&s->canvas, row, 1, s->canvas.columns - 2, LG_STYLE_NORMAL,
                    shown > 0 ? text : "No earlier block of this endpoint is known.");
}

static void
draw_nothing(struct lg_screen *s, const struct lg_worker *worker)
{
    struct lg_canvas *c = &s->canvas;
    const struct lg_event *events;
    char time[LG_TEXT];
    char text[LG_LINE_MAX];
    char name[LG_NAME_MAX];
    bool ended = worker != NULL && worker->post_mortem;
    lg_canvas_put(c, 3, 2, LG_STYLE_GOOD,
                  ended ? "No request was blocking the loop when it ended."
                        : "Nothing blocks the loop right now.");
    size_t count = lg_top_events(s->top, s->worker, &s->view, &events);
    for (size_t i = 0; i < count; i++) {
        if (events[i].kind == LG_EVENT_MARK) {
            continue;
        }
        const struct lg_event *e = &events[i];
        snprintf(text, sizeof(text), "%s", lg_format_duration(e->duration_ns, time, sizeof(time)));
        int at = lg_canvas_printf(
            c, 5, 2, LG_STYLE_NORMAL, "The last block: %s at %s, ", text,
            lg_format_clock(e->real_ns, s->top->now_real_ns, false, time, sizeof(time)));
        lg_canvas_put(c, 5, at, LG_STYLE_NORMAL,
                      lg_screen_key_text(&e->key, 0, name, sizeof(name)));
        lg_canvas_put(c, 6, 2, LG_STYLE_NORMAL, lg_screen_frame_text(e->user, text, sizeof(text)));
        break;
    }
    lg_canvas_put(c, 8, 2, LG_STYLE_DIM, "This screen fills itself as soon as a block begins.");
}
