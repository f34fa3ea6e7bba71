/*
 * screen_parts.h - what the rooms of the screen share: the state of the
 * display, and the parts that several of them draw.
 *
 * Private to screen*.c. Drawing reads the model and writes the canvas; it
 * knows no curses and touches no shared memory. One thread.
 */
#ifndef LG_SCREEN_PARTS_H
#define LG_SCREEN_PARTS_H

#include "../common/lg_clock.h"
#include "canvas.h"
#include "glyphs.h"
#include "keys.h"
#include "model.h"
#include "options.h"
#include "terminal.h"

#define LG_LINE_MAX 512                 /* bytes of a line that is put together */
#define LG_NAME_MAX (LG_MAX_STRING + 1)
#define LG_WIDE 120                     /* columns: long words, more of everything */
#define LG_TALL 34                      /* rows: the overview has a lower part */

/* X(NAME, draw function's suffix, word in messages). Tab goes through the
 * first five. */
#define LG_PAGES(X) \
    X(OVERVIEW, overview, "overview") \
    X(EVENTS, events, "events") \
    X(BLOCKED, blocked, "blocked right now") \
    X(WORKERS, workers, "workers") \
    X(POOL, pool, "thread pool") \
    X(DETAIL, detail, "endpoint") \
    X(STACK, stack, "stack") \
    X(HELP, help, "help")

enum lg_page {
#define LG_X(name, suffix, word) LG_PAGE_##name,
    LG_PAGES(LG_X)
#undef LG_X
        LG_PAGE_COUNT
};
#define LG_TAB_PAGES LG_PAGE_DETAIL

enum lg_prompt {
    LG_PROMPT_NONE,
    LG_PROMPT_SEARCH,
    LG_PROMPT_FILTER,
    LG_PROMPT_MINIMUM,
    LG_PROMPT_SORT,
    LG_PROMPT_COPY
};

struct lg_list {
    size_t at;                          /* the row with the cursor */
    size_t first;                       /* the first row shown */
    size_t count;                       /* rows there were at the last drawing */
    size_t visible;
    int top;                            /* screen row of `first`, for the mouse */
};

struct lg_screen {
    struct lg_top *top;
    const struct lg_options *options;
    struct lg_term *term;
    const struct lg_glyphs *glyphs;
    struct lg_canvas canvas;
    struct lg_view view;                /* filter points to the array below */
    double delay_s;
    uint64_t started_real_ns;
    uint64_t updates;                   /* of the table, for --count */
    bool frozen;                        /* a test: the model's clock is ours */

    enum lg_page page;
    enum lg_page back[LG_PAGE_COUNT];   /* where q goes */
    size_t depth;
    struct lg_list list[LG_PAGE_COUNT];
    int sideways;

    size_t worker;                      /* index, or LG_ALL_WORKERS when merged */
    char worker_label[64];              /* the same worker when indexes move */
    size_t known_workers;
    struct lg_key key;                  /* the endpoint of the detail screen */
    char key_name[LG_NAME_MAX];
    struct lg_key row_key;              /* under the overview's cursor, for F */
    char row_name[LG_NAME_MAX];
    uint64_t event_ticket;              /* under the events' cursor, and whose */
    size_t event_worker;
    enum lg_stack_order order;
    struct lg_stack_view stack;         /* of the stack screen */
    char stack_title[LG_LINE_MAX];
    bool follow_events;
    bool follow_row;
    bool unfold;
    bool one_by_one;                    /* workers: rows of the one under the cursor */

    bool paused;
    uint64_t paused_ns;
    uint64_t zeroed_real_ns;
    bool mouse;
    bool rang;
    uint64_t copied_ns;                 /* all tables, out of turn */

    char told[LG_LINE_MAX];             /* the worker's message that was said last */
    char message[LG_LINE_MAX];
    uint64_t message_until_ns;
    enum lg_prompt prompt;
    char prompt_text[LG_NAME_MAX];
    size_t menu_at;
    char search[LG_NAME_MAX];
    char filter[LG_NAME_MAX];
    char copy[LG_LINE_MAX];             /* path:line under the cursor, for y */

    bool quit;
    int status;
};

/* The rooms. Each fills the whole canvas and its own lg_list. */
#define LG_X(name, suffix, word) void lg_screen_##suffix(struct lg_screen *s);
LG_PAGES(LG_X)
#undef LG_X
/* The lower part of the overview: detail of the row, in rows [row, end). */
void lg_screen_lower_detail(struct lg_screen *s, int row, int end, const struct lg_row *selected);
/* Title and sum over all workers, also of a merged overview. */
void lg_screen_workers_title(struct lg_screen *s);
void lg_screen_workers_sum(struct lg_screen *s, int row);
/* Merged rows, in rows [row, end); no cursor. */
void lg_screen_merged_rows(struct lg_screen *s, int row, int end);
/* The column right or left of the one sorted by. */
enum lg_sort lg_screen_next_sort(const struct lg_screen *s, int step);
/* Meaning of the columns, for the help. */
void lg_screen_column_help(struct lg_screen *s, int row, int column, int end);

/* ---- state ------------------------------------------------------------- */

uint64_t lg_screen_now(const struct lg_screen *s);
/* The worker looked at; NULL when all are, or there is none. */
const struct lg_worker *lg_screen_worker(const struct lg_screen *s);
void lg_screen_say(struct lg_screen *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
bool lg_screen_wide(const struct lg_screen *s);
void lg_screen_open_stack(struct lg_screen *s, const struct lg_stack_view *stack,
                          const char *title);
/* Keeps the cursor inside and in sight. */
void lg_list_fit(struct lg_list *list, size_t count, int top, int visible);

/* ---- parts ------------------------------------------------------------- */

/* "POST  /x": method or kind padded to `pad`, then the name. */
char *lg_screen_key_text(const struct lg_key *key, int pad, char *out, size_t size);
/* "N>50", the threshold in force; "N>T" when workers differ. */
const char *lg_screen_threshold_heading(const struct lg_screen *s, char *out, size_t size);
/* A duration given in us; LG_NONE is "-". */
char *lg_screen_us_text(uint64_t us, char *out, size_t size);
/* "render_pdf app/reports.py:88"; "" for NULL. */
char *lg_screen_frame_text(const struct lg_stack_frame *frame, char *out, size_t size);
/* The same with the file's last component only. */
char *lg_screen_frame_short(const struct lg_stack_frame *frame, char *out, size_t size);
enum lg_style lg_screen_duration_style(uint64_t ns, uint64_t threshold_ns);

/* Line 1: `left` cut before the state at the right. */
void lg_screen_title(struct lg_screen *s, int row, const char *left);
/* " loopguard-top  41207 ", the start of every title. */
int lg_screen_title_start(const struct lg_screen *s, const struct lg_worker *worker, char *out,
                          size_t size);
/* Line 5, whole width. Also the fast lane's. */
void lg_screen_banner(struct lg_screen *s, int row);
/* Where the present page has its banner; -1 = nowhere. */
int lg_screen_banner_row(const struct lg_screen *s);
/* "[1]10s  2:1m  3:5m  4:total"; returns the column after it. */
int lg_screen_windows(struct lg_screen *s, int row, int column);
/* The last line: prompt, message, or `keys`. */
void lg_screen_bottom(struct lg_screen *s, const char *keys);
/* Line of keys: in each group, separated by two blanks, the first word is a key. */
void lg_screen_put_keys(struct lg_screen *s, int row, const char *keys);
/* "[||||    ]" of `width` columns in all. */
void lg_screen_bar(struct lg_screen *s, int row, int column, int width, double share);
/* Sparkline of lags, the newest at the right. */
void lg_screen_spark(struct lg_screen *s, int row, int column, int width, const uint64_t *ns,
                     size_t count);
/* A horizontal bar of eighths, at most `width` columns. Returns its end. */
int lg_screen_eighths(struct lg_screen *s, int row, int column, int width, double share,
                      enum lg_style style);
/* "── text ─────" over the whole width. */
void lg_screen_separator(struct lg_screen *s, int row, const char *text);
/* The histogram's bands, one a row, at most `rows`. */
void lg_screen_bands(struct lg_screen *s, int row, int column, int width, int rows,
                     const struct lg_detail *detail);
/* Chart of `seconds` with axis, `rows` high with the line of the times. */
void lg_screen_timeline(struct lg_screen *s, int row, int column, int width, int rows,
                        const uint64_t *ns, size_t seconds);
/* A stack's frames, library frames folded unless s->unfold; `at` = the line
 * with the cursor, -1 none. Skips `skip` lines, draws at most `rows`; returns
 * how many lines there are in all. */
int lg_screen_frames(struct lg_screen *s, int row, int column, int rows, int skip, int at,
                     const struct lg_stack_view *stack);
/* Blocks without a stack have one without frames. */
const struct lg_stack_view *lg_screen_weighted(const struct lg_weighted_stack *weighted);
/* "path:line" of the frame on that line; "" when it is a fold. */
char *lg_screen_frame_place(const struct lg_screen *s, const struct lg_stack_view *stack, int line,
                            char *out, size_t size);
/* "6x GET /a   5x GET /b", separated by `gap`; with `waits` the time, too. */
char *lg_screen_waiting_text(const struct lg_waiting *waiting, const char *gap, bool waits,
                             char *out, size_t size);
/* "cpu 1.2s, io 0.1s": parts over 1 % of their sum; "" when not known. */
char *lg_screen_parts_text(const uint64_t parts[LG_CAUSE_COUNT], char *out, size_t size);

#endif
