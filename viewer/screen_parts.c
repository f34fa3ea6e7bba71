/*
 * screen_parts.c - parts that several screens draw; see screen_parts.h.
 *
 * Text layout over the model: no curses, no shared memory, no state but the
 * screen's.
 */
#include "screen_parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define FOLD_LEAST 2                    /* fewer library frames are shown */
#define FOLD_PACKAGES 3                 /* names on a folded line */

static void state_text(const struct lg_screen *s, char *out, size_t size);
static void banner_text(struct lg_screen *s, const struct lg_banner *banner,
                        const struct lg_worker *worker, char *out, size_t size);
static void blocked_rest(const struct lg_screen *s, const struct lg_worker *worker, char *out,
                         size_t size);
static const char *process_state_text(char state);
static enum lg_style banner_style(const struct lg_banner *banner);
static int level_of(uint64_t ns);
static void band_label(const struct lg_band *band, bool first, bool last, char *out, size_t size);
static char *band_edge(uint64_t us, char *out, size_t size);
static uint64_t nice_maximum(uint64_t ns);
static void timeline_axis(struct lg_screen *s, int row, int column, int columns,
                          size_t seconds_each);
static bool is_folded(const struct lg_screen *s, const struct lg_stack_view *stack, uint32_t i,
                      uint32_t *run);
static void fold_text(const struct lg_stack_view *stack, uint32_t from, uint32_t count, char *out,
                      size_t size);

/* snprintf at the end of what is there. */
static void append(char *out, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- state ------------------------------------------------------------- */

uint64_t
lg_screen_now(const struct lg_screen *s)
{
    return s->frozen ? s->top->now_ns : lg_now_ns();
}

const struct lg_worker *
lg_screen_worker(const struct lg_screen *s)
{
    return s->worker < s->top->worker_count ? s->top->workers[s->worker] : NULL;
}

void
lg_screen_say(struct lg_screen *s, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(s->message, sizeof(s->message), format, args);
    va_end(args);
    s->message_until_ns = lg_screen_now(s) + 5 * LG_NS_PER_S;
}

bool
lg_screen_wide(const struct lg_screen *s)
{
    return s->canvas.columns >= LG_WIDE;
}

void
lg_screen_open_stack(struct lg_screen *s, const struct lg_stack_view *stack, const char *title)
{
    s->stack = *stack;
    snprintf(s->stack_title, sizeof(s->stack_title), "%s", title);
    s->list[LG_PAGE_STACK] = (struct lg_list){0};
}

void
lg_list_fit(struct lg_list *list, size_t count, int top, int visible)
{
    size_t room = visible > 0 ? (size_t)visible : 0;
    list->count = count;
    list->visible = room;
    list->top = top;
    if (list->at >= count) {
        list->at = count > 0 ? count - 1 : 0;
    }
    if (list->at < list->first) {
        list->first = list->at;
    }
    if (room > 0 && list->at >= list->first + room) {
        list->first = list->at - room + 1;
    }
    if (list->first > 0 && list->first + room > count) {
        list->first = count > room ? count - room : 0;
    }
}

/* ---- names ------------------------------------------------------------- */

char *
lg_screen_key_text(const struct lg_key *key, int pad, char *out, size_t size)
{
    const char *label = lg_format_label(key->kind, key->method, key->name);
    const char *name = key->name != NULL ? key->name : "";
    snprintf(out, size, "%-*s%s%s", pad, label, label[0] != '\0' ? " " : "", name);
    return out;
}

char *
lg_screen_us_text(uint64_t us, char *out, size_t size)
{
    return lg_format_duration(us == LG_NONE ? LG_NONE : us * LG_NS_PER_US, out, size);
}

char *
lg_screen_frame_text(const struct lg_stack_frame *frame, char *out, size_t size)
{
    if (frame == NULL) {
        snprintf(out, size, "%s", "");
    }
    else if (frame->line == 0) {
        snprintf(out, size, "%s %s", frame->function, frame->short_file);
    }
    else {
        snprintf(out, size, "%s %s:%u", frame->function, frame->short_file, frame->line);
    }
    return out;
}

char *
lg_screen_frame_short(const struct lg_stack_frame *frame, char *out, size_t size)
{
    if (frame == NULL) {
        snprintf(out, size, "-");
        return out;
    }
    struct lg_stack_frame base = *frame;
    base.short_file = lg_format_base(frame->short_file);
    return lg_screen_frame_text(&base, out, size);
}

enum lg_style
lg_screen_duration_style(uint64_t ns, uint64_t threshold_ns)
{
    if (ns == LG_NONE || threshold_ns == LG_NONE || threshold_ns == 0 || ns < threshold_ns) {
        return LG_STYLE_NORMAL;
    }
    return ns >= LG_ALARM_NS ? LG_STYLE_RED : LG_STYLE_WARNING;
}

const char *
lg_screen_threshold_heading(const struct lg_screen *s, char *out, size_t size)
{
    char ms[LG_TEXT];
    const struct lg_worker *worker = lg_screen_worker(s);
    bool all = worker == NULL || s->page == LG_PAGE_WORKERS;
    if (all && s->top->worker_count > 0) {
        worker = s->top->workers[0];
    }
    for (size_t i = 1; all && i < s->top->worker_count; i++) {
        if (s->top->workers[i]->threshold_ns != worker->threshold_ns) {
            return "N>T";
        }
    }
    if (worker == NULL || worker->threshold_ns == LG_NONE) {
        return "N>T";
    }
    snprintf(out, size, "N>%.16s", lg_format_ms(worker->threshold_ns, ms, sizeof(ms)));
    return out;
}

/* ---- lines ------------------------------------------------------------- */

int
lg_screen_title_start(const struct lg_screen *s, const struct lg_worker *worker, char *out,
                      size_t size)
{
    if (worker == NULL) {
        return snprintf(out, size,
                        lg_screen_wide(s) ? " loopguard-top   %zu workers"
                                          : " loopguard-top  %zu workers",
                        s->top->worker_count);
    }
    return snprintf(out, size, lg_screen_wide(s) ? " loopguard-top   pid %s" : " loopguard-top  %s",
                    worker->label);
}

void
lg_screen_title(struct lg_screen *s, int row, const char *left)
{
    char state[LG_LINE_MAX];
    state_text(s, state, sizeof(state));
    const struct lg_worker *worker = lg_screen_worker(s);
    bool live = worker == NULL || worker->state == LG_WORKER_LIVE;
    enum lg_style style = s->paused ? LG_STYLE_WARNING : live ? LG_STYLE_GOOD : LG_STYLE_RED;
    int end = s->canvas.columns > 20 ? s->canvas.columns - 1 : s->canvas.columns;
    int at = lg_canvas_right(&s->canvas, row, end, style, state);
    lg_canvas_field(&s->canvas, row, 0, at - 1, LG_STYLE_TITLE, left);
}

/* "since 14:02  PAUSED 00:12". */
static void
state_text(const struct lg_screen *s, char *out, size_t size)
{
    char text[LG_TEXT];
    const struct lg_worker *worker = lg_screen_worker(s);
    enum lg_worker_state state = worker != NULL ? worker->state : LG_WORKER_LIVE;
    out[0] = '\0';
    if (s->zeroed_real_ns != 0) {
        append(out, size, "since %.5s  ",
               lg_format_clock(s->zeroed_real_ns, 0, false, text, sizeof(text)));
    }
    if (s->paused) {
        append(out, size, "PAUSED %s",
               lg_format_age(lg_screen_now(s) - s->paused_ns, text, sizeof(text)));
        return;
    }
    switch (state) {
    case LG_WORKER_LIVE:
        if (lg_screen_wide(s)) {
            append(out, size, "LIVE  every %.1f s", s->delay_s);
        }
        else {
            append(out, size, "LIVE %.1fs", s->page == LG_PAGE_BLOCKED ? 0.1 : s->delay_s);
        }
        break;
    case LG_WORKER_STALE:
        append(out, size, "STALE %s",
               lg_format_age_short(worker->heartbeat_age_ns, text, sizeof(text)));
        break;
    case LG_WORKER_EXITED:
    case LG_WORKER_DEAD:
        if (!worker->ended_while_watched) {
            append(out, size, "POST-MORTEM");
            break;
        }
        for (size_t i = 0; i < s->top->worker_count; i++) {
            const struct lg_worker *other = s->top->workers[i];
            if (!other->post_mortem && other->ppid == worker->ppid &&
                other->started_real_ns >= worker->ended_real_ns) {
                append(out, size, "RESTARTED");
                return;
            }
        }
        append(
            out, size, "EXITED %s",
            lg_format_clock(worker->ended_real_ns, s->top->now_real_ns, false, text, sizeof(text)));
        break;
    case LG_WORKER_CUT:
        append(out, size, "FILE CUT");
        break;
    case LG_WORKER_OFF:
        append(out, size, "AGENT OFF");
        break;
    }
}

int
lg_screen_windows(struct lg_screen *s, int row, int column)
{
    const struct lg_worker *worker = lg_screen_worker(s);
    bool ended = worker != NULL && worker->post_mortem;
    int at = lg_canvas_put(&s->canvas, row, column, LG_STYLE_NORMAL,
                           lg_screen_wide(s) ? "Window  " : "Window ");
    for (int i = 0; i < LG_WINDOW_COUNT; i++) {
        /* After its end a worker has its last minute and the total. */
        if (ended && i != LG_WINDOW_1M && i != LG_WINDOW_TOTAL) {
            continue;
        }
        bool chosen = (int)s->view.window == i;
        at =
            lg_canvas_printf(&s->canvas, row, at, chosen ? LG_STYLE_BOLD : LG_STYLE_NORMAL,
                             chosen ? "[%d]%s" : "%d:%s", i + 1, lg_window_text((enum lg_window)i));
        at += 2;
    }
    if (ended && s->canvas.columns >= 76) {
        at = lg_canvas_put(&s->canvas, row, at, LG_STYLE_DIM, "(the process is gone)") + 2;
    }
    return at - 2;
}

void
lg_screen_bottom(struct lg_screen *s, const char *keys)
{
    static const char *const prompts[] = {
        [LG_PROMPT_NONE] = "",
        [LG_PROMPT_SEARCH] = "/",
        [LG_PROMPT_FILTER] = "show only (a|b): ",
        [LG_PROMPT_MINIMUM] = "only blocks of at least (ms): ",
        [LG_PROMPT_SORT] = "",
        [LG_PROMPT_COPY] = "",
    };
    int row = s->canvas.rows - 1;
    lg_canvas_clear_rows(&s->canvas, row, row + 1);
    if (s->prompt == LG_PROMPT_SORT) {
        lg_screen_put_keys(s, row, "Up Down choose  Enter Sort  Esc Leave");
    }
    else if (s->prompt == LG_PROMPT_COPY) {
        lg_canvas_put(&s->canvas, row, 0, LG_STYLE_NORMAL, s->copy);
    }
    else if (s->prompt != LG_PROMPT_NONE) {
        int at = lg_canvas_put(&s->canvas, row, 0, LG_STYLE_BOLD, prompts[s->prompt]);
        at = lg_canvas_put(&s->canvas, row, at, LG_STYLE_NORMAL, s->prompt_text);
        lg_canvas_put(&s->canvas, row, at, LG_STYLE_SELECTED, " ");
    }
    else if (s->message[0] != '\0' && lg_screen_now(s) < s->message_until_ns) {
        lg_canvas_field(&s->canvas, row, 1, s->canvas.columns - 1, LG_STYLE_BOLD, s->message);
    }
    else {
        s->message[0] = '\0';
        lg_screen_put_keys(s, row, keys);
    }
}

void
lg_screen_put_keys(struct lg_screen *s, int row, const char *keys)
{
    int column = 0;
    bool key = true;
    for (const char *p = keys; *p != '\0'; p++) {
        char one[2] = {*p, '\0'};
        if (*p == ' ') {
            /* "[ ]" is two keys. */
            key = p[1] == ' ' || p[1] == ']' || (p > keys && p[-1] == ' ');
        }
        column = lg_canvas_put(&s->canvas, row, column, key ? LG_STYLE_KEY : LG_STYLE_NORMAL, one);
        /* "?Help": one character, then what it does. */
        if (*p == '?') {
            key = false;
        }
    }
}

/* ---- banner ------------------------------------------------------------ */

int
lg_screen_banner_row(const struct lg_screen *s)
{
    switch (s->page) {
    case LG_PAGE_OVERVIEW:
        return s->canvas.rows >= 10 ? 4 : 1;
    case LG_PAGE_WORKERS:
        return s->canvas.rows >= 10 ? 2 : 1;
    default:
        return -1;
    }
}

void
lg_screen_banner(struct lg_screen *s, int row)
{
    char text[LG_LINE_MAX];
    char hint[LG_LINE_MAX] = "";
    const struct lg_worker *worker = lg_screen_worker(s);
    const struct lg_banner *banner = worker != NULL ? &worker->banner : lg_top_banner(s->top);
    /* Another worker in a block is worth more than an empty line here. */
    if (banner == NULL || banner->kind == LG_BANNER_NONE || banner->kind == LG_BANNER_ENDED) {
        const struct lg_banner *worst = lg_top_banner(s->top);
        banner = worst != NULL && worst->kind == LG_BANNER_BLOCKED ? worst : banner;
    }
    lg_canvas_clear_rows(&s->canvas, row, row + 1);
    if (banner == NULL || banner->kind == LG_BANNER_NONE ||
        banner->worker >= s->top->worker_count) {
        return;
    }
    worker = s->top->workers[banner->worker];
    banner_text(s, banner, worker, text, sizeof(text));
    enum lg_style style = banner_style(banner);
    int end = s->canvas.columns;
    lg_canvas_fill(&s->canvas, row, 0, end, style, " ");
    if (banner->kind == LG_BANNER_BLOCKED || banner->kind == LG_BANNER_DIED_BLOCKED) {
        const struct lg_waiting *waiting = &worker->blocked.waiting;
        if (lg_screen_wide(s) && waiting->requests != LG_NONE && waiting->requests > 0) {
            append(hint, sizeof(hint), "%" PRIu64 " waiting   ", waiting->requests);
        }
        if (s->canvas.columns >= 60) {
            append(hint, sizeof(hint), s->page == LG_PAGE_WORKERS ? "[b]" : "[b] stack");
        }
    }
    /* All but "[b]" gives way to what is to be read. */
    int columns = (int)lg_format_columns(text);
    char *key = strstr(hint, "[b]");
    if (key != NULL && columns + 2 + (int)strlen(hint) > end - 1) {
        key[3] = '\0';
        if (columns + 2 + (int)strlen(hint) > end - 1) {
            memmove(hint, key, 4);
        }
    }
    if (hint[0] != '\0') {
        end = lg_canvas_right(&s->canvas, row, end - 1, style, hint) - 1;
    }
    lg_canvas_field(&s->canvas, row, 0, end, style, text);
}

static void
banner_text(struct lg_screen *s, const struct lg_banner *banner, const struct lg_worker *worker,
            char *out, size_t size)
{
    out[0] = '\0';
    char time[LG_TEXT];
    char pid[80] = "";
    char rest[LG_LINE_MAX] = "";
    const char *gap = lg_screen_wide(s) ? "   " : "  ";
    if (s->top->worker_count > 1 && (s->worker == LG_ALL_WORKERS || s->worker != banner->worker ||
                                     s->page == LG_PAGE_WORKERS)) {
        snprintf(pid, sizeof(pid), "%.64s%s", worker->label, gap);
    }
    blocked_rest(s, worker, rest, sizeof(rest));
    switch (banner->kind) {
    case LG_BANNER_NONE:
        break;
    case LG_BANNER_BLOCKED:
        append(out, size, "!BLOCKED %s%s%s%s", lg_format_duration(banner->ns, time, sizeof(time)),
               gap, pid, rest);
        break;
    case LG_BANNER_ENDED:
        append(out, size, " ended   %s%s%s%s", lg_format_duration(banner->ns, time, sizeof(time)),
               gap, pid, rest);
        break;
    case LG_BANNER_NO_HEARTBEAT:
        append(out, size, "?NO HEARTBEAT %s%s%s%s",
               lg_format_age_short(banner->ns, time, sizeof(time)), gap, pid,
               process_state_text(banner->process_state));
        break;
    case LG_BANNER_DIED_BLOCKED:
        append(out, size, "!DIED WHILE BLOCKED %s%s%s%s",
               lg_format_duration(banner->ns, time, sizeof(time)), gap, pid, rest);
        break;
    case LG_BANNER_DIED:
    case LG_BANNER_EXITED: {
        char up[LG_TEXT];
        append(
            out, size, "!%s %s%s%safter %s; q quits, screens stay usable",
            banner->kind == LG_BANNER_DIED ? "DIED" : "EXITED",
            lg_format_clock(worker->ended_real_ns, s->top->now_real_ns, false, time, sizeof(time)),
            gap, pid, lg_format_uptime(worker->up_ns, up, sizeof(up)));
        break;
    }
    case LG_BANNER_CUT:
        append(out, size, "!the segment became shorter; showing the last whole picture %s",
               lg_format_clock(worker->heartbeat_real_ns, 0, false, time, sizeof(time)));
        break;
    }
}

/* "POST /x  render canvas.py:3 < render_pdf reports.py:88, recv fd 11". */
static void
blocked_rest(const struct lg_screen *s, const struct lg_worker *worker, char *out, size_t size)
{
    char text[LG_LINE_MAX];
    const struct lg_blocked *blocked = &worker->blocked;
    const struct lg_stack_frame *user = lg_stack_user_frame(&blocked->stack);
    const char *gap = lg_screen_wide(s) ? "   " : "  ";
    out[0] = '\0';
    if (blocked->key.name == NULL) {
        return;
    }
    append(out, size, "%s", lg_screen_key_text(&blocked->key, 0, text, sizeof(text)));
    if (lg_screen_wide(s) && blocked->stack.depth > 0 && &blocked->stack.frame[0] != user) {
        append(out, size, "%s%s <", gap,
               lg_screen_frame_text(&blocked->stack.frame[0], text, sizeof(text)));
        gap = " ";
    }
    if (user != NULL) {
        append(out, size, "%s%s", gap, lg_screen_frame_text(user, text, sizeof(text)));
    }
    if (blocked->call != NULL && blocked->call[0] != '\0') {
        append(out, size, ", %s", blocked->call);
    }
}

static const char *
process_state_text(char state)
{
    switch (state) {
    case 'T':
    case 't':
        return "process is stopped (state T)";
    case 'D':
        return "in uninterruptible sleep (D)";
    case 'Z':
        return "process has ended, not yet waited for (state Z)";
    default:
        return "runs, but the agent thread is silent";
    }
}

static enum lg_style
banner_style(const struct lg_banner *banner)
{
    switch (banner->kind) {
    case LG_BANNER_BLOCKED:
        return banner->alarm ? LG_STYLE_ALARM : LG_STYLE_WARNING;
    case LG_BANNER_DIED_BLOCKED:
    case LG_BANNER_DIED:
        return LG_STYLE_ALARM;
    case LG_BANNER_ENDED:
        return LG_STYLE_DIM;
    default:
        return LG_STYLE_WARNING;
    }
}

/* ---- bars -------------------------------------------------------------- */

void
lg_screen_bar(struct lg_screen *s, int row, int column, int width, double share)
{
    int inside = width - 2;
    if (inside < 1) {
        return;
    }
    double clipped = share < 0 ? 0 : share > 1 ? 1 : share;
    int full = (int)lround(clipped * inside);
    lg_canvas_put(&s->canvas, row, column, LG_STYLE_NORMAL, "[");
    lg_canvas_fill(&s->canvas, row, column + 1, column + 1 + full,
                   share >= 0.8 ? LG_STYLE_WARNING : LG_STYLE_BAR, "|");
    lg_canvas_put(&s->canvas, row, column + width - 1, LG_STYLE_NORMAL, "]");
}

int
lg_screen_eighths(struct lg_screen *s, int row, int column, int width, double share,
                  enum lg_style style)
{
    if (width < 1 || !(share > 0)) {
        return column;
    }
    long eighths = lround((share > 1 ? 1 : share) * width * LG_LEVELS);
    eighths = eighths < 1 ? 1 : eighths;    /* something is never drawn as nothing */
    int full = (int)(eighths / LG_LEVELS);
    lg_canvas_fill(&s->canvas, row, column, column + full, style, s->glyphs->one[LG_GLYPH_FULL]);
    return lg_canvas_put(&s->canvas, row, column + full, style,
                         s->glyphs->part[eighths % LG_LEVELS]);
}

void
lg_screen_spark(struct lg_screen *s, int row, int column, int width, const uint64_t *ns,
                size_t count)
{
    for (int i = 0; i < width; i++) {
        size_t back = (size_t)(width - i);
        if (back > count) {
            continue;
        }
        uint64_t value = ns[count - back];
        if (value == LG_NONE) {
            lg_canvas_put(&s->canvas, row, column + i, LG_STYLE_DIM,
                          s->glyphs->one[LG_GLYPH_UNKNOWN]);
            continue;
        }
        int level = level_of(value);
        lg_canvas_put(&s->canvas, row, column + i,
                      level >= 6   ? LG_STYLE_RED
                      : level >= 3 ? LG_STYLE_WARNING
                                   : LG_STYLE_BAR,
                      s->glyphs->level[level]);
    }
}

/* The same lag is the same height on every screen and every day: each level
 * is twice the one below, from 12.5 ms to 800 ms. */
static int
level_of(uint64_t ns)
{
    uint64_t step = UINT64_C(12500000);
    int level = 0;
    while (level < LG_LEVELS - 1 && ns >= step) {
        step *= 2;
        level++;
    }
    return level;
}

void
lg_screen_separator(struct lg_screen *s, int row, const char *text)
{
    const char *line = s->glyphs->one[LG_GLYPH_HORIZONTAL];
    lg_canvas_fill(&s->canvas, row, 0, s->canvas.columns, LG_STYLE_DIM, line);
    int end = lg_canvas_put(&s->canvas, row, 2, LG_STYLE_NORMAL, " ");
    end = lg_canvas_field(&s->canvas, row, end,
                          (int)lg_format_columns(text) < s->canvas.columns - 6
                              ? (int)lg_format_columns(text)
                              : s->canvas.columns - 6,
                          LG_STYLE_BOLD, text);
    lg_canvas_put(&s->canvas, row, end, LG_STYLE_NORMAL, " ");
}

/* ---- charts ------------------------------------------------------------ */

void
lg_screen_bands(struct lg_screen *s, int row, int column, int width, int rows,
                const struct lg_detail *detail)
{
    uint64_t most = 0;
    uint64_t threshold_us = detail->row.threshold_ns / LG_NS_PER_US;
    for (size_t i = 0; i < detail->band_count; i++) {
        most = detail->band[i].count > most ? detail->band[i].count : most;
    }
    if (detail->band_count == 0) {
        lg_canvas_field(&s->canvas, row, column, width, LG_STYLE_DIM, "  not known in this window");
    }
    for (size_t i = 0; i < detail->band_count && (int)i < rows; i++) {
        const struct lg_band *band = &detail->band[i];
        char label[LG_TEXT];
        char count[LG_TEXT];
        char ms[LG_TEXT];
        int line = row + (int)i;
        band_label(band, i == 0, i + 1 == detail->band_count, label, sizeof(label));
        int at = lg_canvas_field_right(&s->canvas, line, column, 9, LG_STYLE_NORMAL, label);
        lg_format_count(band->count, count, sizeof(count));
        at = lg_canvas_field_right(&s->canvas, line, at, 7, LG_STYLE_NORMAL, count) + 1;
        bool slow = band->lo_us >= threshold_us;
        int room = column + width - at - 1;
        at = lg_screen_eighths(s, line, at, room, most > 0 ? (double)band->count / (double)most : 0,
                               slow ? LG_STYLE_WARNING : LG_STYLE_BAR);
        if (threshold_us >= band->lo_us && threshold_us < band->hi_us && threshold_us > 0) {
            char text[64];
            snprintf(text, sizeof(text), "-- threshold %sms",
                     lg_format_ms(detail->row.threshold_ns, ms, sizeof(ms)));
            at = at + 2;
            lg_canvas_field(&s->canvas, line, at, column + width - at - 1, LG_STYLE_DIM, text);
        }
    }
}

/* "<1ms", "64-128", "512-1s", ">=1s". */
static void
band_label(const struct lg_band *band, bool first, bool last, char *out, size_t size)
{
    out[0] = '\0';
    char lo[LG_TEXT];
    char hi[LG_TEXT];
    band_edge(band->lo_us, lo, sizeof(lo));
    band_edge(band->hi_us, hi, sizeof(hi));
    bool seconds = hi[strlen(hi) - 1] == 's';
    if (first) {
        append(out, size, "<%s%s", hi, seconds ? "" : "ms");
    }
    else if (last) {
        append(out, size, ">=%s%s", lo, lo[strlen(lo) - 1] == 's' ? "" : "ms");
    }
    else {
        /* "512-1s", "1-2s": one unit at the end, and none is ms. */
        bool both = seconds && lo[strlen(lo) - 1] == 's';
        append(out, size, "%.*s-%s", (int)strlen(lo) - both, lo, hi);
    }
}

/* The buckets' edges are powers of two of a microsecond: 1024 us is "1". */
static char *
band_edge(uint64_t us, char *out, size_t size)
{
    uint64_t ms = us == LG_NONE ? LG_NONE : (us & (us - 1)) == 0 ? us / 1024 : (us + 500) / 1000;
    if (us == LG_NONE) {
        snprintf(out, size, "...");
    }
    else if (us == 512) {
        snprintf(out, size, "0.5");
    }
    else if (ms >= 1000) {
        snprintf(out, size, "%" PRIu64 "s", ms / 1000);
    }
    else {
        snprintf(out, size, "%" PRIu64, ms);
    }
    return out;
}

void
lg_screen_timeline(struct lg_screen *s, int row, int column, int width, int rows,
                   const uint64_t *ns, size_t seconds)
{
    int height = rows - 1;              /* the last row has the times */
    int columns = width - 7;            /* the values at the left */
    if (height < 2 || columns < 10) {
        return;
    }
    size_t each = (seconds + (size_t)columns - 1) / (size_t)columns;
    each = each == 0 ? 1 : each;
    columns = (int)((seconds + each - 1) / each);
    uint64_t value[LG_LONG_SERIES];
    uint64_t most = 0;
    for (int i = 0; i < columns; i++) {
        value[i] = LG_NONE;
        for (size_t k = 0; k < each; k++) {
            size_t back = (size_t)(columns - i) * each - k;
            uint64_t one = back <= seconds ? ns[seconds - back] : LG_NONE;
            if (one != LG_NONE) {
                value[i] = value[i] == LG_NONE ? one : value[i] + one;
            }
        }
        most = value[i] != LG_NONE && value[i] > most ? value[i] : most;
    }
    uint64_t full = nice_maximum(most);
    for (int line = 0; line < height; line++) {
        char label[LG_TEXT] = "";
        int from_bottom = height - 1 - line;
        bool labelled = line == 0 || (height >= 5 && line == height / 2);
        if (from_bottom == 0) {
            snprintf(label, sizeof(label), "0");
        }
        else if (labelled) {
            lg_format_duration(full * (uint64_t)(from_bottom + 1) / (uint64_t)height, label,
                               sizeof(label));
        }
        lg_canvas_field_right(&s->canvas, row + line, column, 6, LG_STYLE_NORMAL, label);
        lg_canvas_put(&s->canvas, row + line, column + 6, LG_STYLE_DIM,
                      s->glyphs->one[from_bottom == 0   ? LG_GLYPH_CROSS
                                     : label[0] != '\0' ? LG_GLYPH_TICK_LEFT
                                                        : LG_GLYPH_VERTICAL]);
        for (int i = 0; i < columns; i++) {
            if (value[i] == LG_NONE) {
                continue;
            }
            uint64_t eighths = full == 0 ? 0 : value[i] * (uint64_t)height * LG_LEVELS / full;
            eighths = value[i] > 0 && eighths == 0 ? 1 : eighths;
            uint64_t below = (uint64_t)from_bottom * LG_LEVELS;
            if (eighths > below) {
                uint64_t part = eighths - below > LG_LEVELS ? LG_LEVELS : eighths - below;
                lg_canvas_put(&s->canvas, row + line, column + 7 + i,
                              value[i] > 0 ? LG_STYLE_WARNING : LG_STYLE_BAR,
                              s->glyphs->level[part - 1]);
            }
            else if (from_bottom == 0) {
                lg_canvas_put(&s->canvas, row + line, column + 7 + i, LG_STYLE_BAR,
                              s->glyphs->level[0]);
            }
        }
    }
    timeline_axis(s, row + height, column + 7, columns, each);
}

/* "-60s     -40s     -20s      now". */
static void
timeline_axis(struct lg_screen *s, int row, int column, int columns, size_t seconds_each)
{
    size_t all = (size_t)columns * seconds_each;
    size_t step = all > 80 ? 25 : 20;
    for (size_t back = step; back <= all + 4; back += step) {
        size_t clipped = back > all ? all : back;
        char text[LG_TEXT];
        snprintf(text, sizeof(text), "-%zus", clipped);
        lg_canvas_put(&s->canvas, row, column + (int)((all - clipped) / seconds_each), LG_STYLE_DIM,
                      text);
    }
    lg_canvas_right(&s->canvas, row, column + columns, LG_STYLE_DIM, "now");
}

/* 1, 2 or 5 times a power of ten, not below `ns`. */
static uint64_t
nice_maximum(uint64_t ns)
{
    static const uint64_t steps[] = {1, 2, 5};
    for (uint64_t power = LG_NS_PER_MS; power < UINT64_MAX / 100; power *= 10) {
        for (size_t i = 0; i < 3; i++) {
            if (power * steps[i] >= ns) {
                return power * steps[i];
            }
        }
    }
    return ns;
}

/* ---- stacks ------------------------------------------------------------ */

int
lg_screen_frames(struct lg_screen *s, int row, int column, int rows, int skip, int at,
                 const struct lg_stack_view *stack)
{
    int line = 0;
    char place[LG_LINE_MAX];
    char text[LG_LINE_MAX];
    bool wide = lg_screen_wide(s);
    int function = wide ? 24 : 18;
    int end = s->canvas.columns - 1;
    for (uint32_t i = 0; i < stack->depth; line++) {
        uint32_t run = 1;
        bool folded = is_folded(s, stack, i, &run);
        if (line >= skip && line - skip < rows) {
            int y = row + line - skip;
            const struct lg_stack_frame *frame = &stack->frame[i];
            if (folded) {
                fold_text(stack, i, run, text, sizeof(text));
                lg_canvas_put(&s->canvas, y, column, LG_STYLE_DIM, "..");
                lg_canvas_field(&s->canvas, y, column + 5, end - column - 5, LG_STYLE_DIM, text);
            }
            else {
                enum lg_style style =
                    frame->origin == LG_ORIGIN_USER ? LG_STYLE_BOLD : LG_STYLE_NORMAL;
                lg_canvas_printf(&s->canvas, y, column, LG_STYLE_DIM, "#%u", i);
                lg_canvas_field(&s->canvas, y, column + 4, function, style, frame->function);
                snprintf(place, sizeof(place), "%s:%u", frame->short_file, frame->line);
                if (frame->line == 0) {
                    snprintf(place, sizeof(place), "%s", frame->short_file);
                }
                const struct lg_stack_frame *user = lg_stack_user_frame(stack);
                const char *what = frame->endpoint                                   ? "endpoint"
                                   : frame == user && user->origin == LG_ORIGIN_USER ? "your code"
                                                                                     : "";
                int from = column + 4 + function + 1;
                int room = end - from - (what[0] != '\0' ? 13 : 0);
                lg_canvas_field(&s->canvas, y, from, room, style, place);
                if (what[0] != '\0') {
                    int mark = from + (wide ? 40 : 32);
                    int columns = from + (int)lg_format_columns(place) + 1;
                    mark = columns > mark ? columns : mark;
                    mark = mark > end - 11 ? end - 11 : mark;
                    snprintf(text, sizeof(text), "%s %s", s->glyphs->one[LG_GLYPH_POINTER], what);
                    lg_canvas_field(&s->canvas, y, mark, end - mark, LG_STYLE_GOOD, text);
                }
            }
            if (line == at) {
                lg_canvas_put(&s->canvas, y, 0, LG_STYLE_BOLD, ">");
            }
        }
        i += run;
    }
    if (stack->depth == 0 && rows > 0) {
        lg_canvas_put(&s->canvas, row, column, LG_STYLE_DIM, "no stack was taken");
    }
    return line;
}

const struct lg_stack_view *
lg_screen_weighted(const struct lg_weighted_stack *weighted)
{
    static const struct lg_stack_view none;
    return weighted->stack != NULL ? weighted->stack : &none;
}

char *
lg_screen_frame_place(const struct lg_screen *s, const struct lg_stack_view *stack, int line,
                      char *out, size_t size)
{
    out[0] = '\0';
    for (uint32_t i = 0; i < stack->depth; line--) {
        uint32_t run = 1;
        bool folded = is_folded(s, stack, i, &run);
        if (line == 0) {
            if (!folded) {
                snprintf(out, size, "%s:%u", stack->frame[i].file, stack->frame[i].line);
            }
            return out;
        }
        i += run;
    }
    return out;
}

/* Does a folded line begin at frame i, and how many frames does it stand for?
 * The innermost frame is always shown: it is where the time went. */
static bool
is_folded(const struct lg_screen *s, const struct lg_stack_view *stack, uint32_t i, uint32_t *run)
{
    uint32_t n = 0;
    *run = 1;
    if (s->unfold || i == 0) {
        return false;
    }
    while (i + n < stack->depth && stack->frame[i + n].origin != LG_ORIGIN_USER) {
        n++;
    }
    if (n < FOLD_LEAST) {
        return false;
    }
    *run = n;
    return true;
}

/* "9 frames of fastapi, starlette, uvicorn folded (f unfolds)". */
static void
fold_text(const struct lg_stack_view *stack, uint32_t from, uint32_t count, char *out, size_t size)
{
    char seen[FOLD_PACKAGES][48];
    size_t names = 0;
    bool more = false;
    for (uint32_t i = from; i < from + count; i++) {
        char name[48];
        const char *file = stack->frame[i].short_file;
        size_t length = strcspn(file, "/");
        if (file[length] == '\0') {
            length = strcspn(file, ".");    /* "threading.py" */
        }
        snprintf(name, sizeof(name), "%.*s", (int)(length < 40 ? length : 40), file);
        size_t k = 0;
        while (k < names && strcmp(seen[k], name) != 0) {
            k++;
        }
        if (k == names && names < FOLD_PACKAGES) {
            memcpy(seen[names++], name, sizeof(name));
        }
        else if (k == names) {
            more = true;
        }
    }
    out[0] = '\0';
    append(out, size, "%u frames of ", count);
    for (size_t k = 0; k < names; k++) {
        append(out, size, "%s%s", k > 0 ? ", " : "", seen[k]);
    }
    append(out, size, "%s folded (f unfolds)", more ? ", ..." : "");
}

/* ---- texts ------------------------------------------------------------- */

char *
lg_screen_waiting_text(const struct lg_waiting *waiting, const char *gap, bool waits, char *out,
                       size_t size)
{
    char name[LG_LINE_MAX];
    char time[LG_TEXT];
    out[0] = '\0';
    for (size_t i = 0; i < waiting->endpoint_count && i < LG_WAITING_MAX; i++) {
        const struct lg_waiting_endpoint *e = &waiting->endpoint[i];
        append(out, size, "%s%" PRIu64 "x %s", i > 0 ? gap : "", e->requests,
               lg_screen_key_text(&e->key, 0, name, sizeof(name)));
        if (waits && e->wait_ns != LG_NONE) {
            append(out, size, "  %s", lg_format_duration(e->wait_ns, time, sizeof(time)));
        }
    }
    return out;
}

char *
lg_screen_parts_text(const uint64_t parts[LG_CAUSE_COUNT], char *out, size_t size)
{
    char time[LG_TEXT];
    uint64_t sum = 0;
    out[0] = '\0';
    for (int i = 0; i < LG_CAUSE_COUNT; i++) {
        sum += parts[i] == LG_NONE ? 0 : parts[i];
    }
    for (int i = 0; i < LG_CAUSE_COUNT; i++) {
        if (parts[i] != LG_NONE && parts[i] > sum / 100) {
            append(out, size, "%s%s %s", out[0] != '\0' ? ", " : "", lg_format_cause((uint32_t)i),
                   lg_format_duration(parts[i], time, sizeof(time)));
        }
    }
    return out;
}

static void
append(char *out, size_t size, const char *format, ...)
{
    size_t n = strlen(out);
    va_list args;
    va_start(args, format);
    if (n < size) {
        vsnprintf(out + n, size - n, format, args);
    }
    va_end(args);
}
