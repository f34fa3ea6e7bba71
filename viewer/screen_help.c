/*
 * screen_help.c - one page, made from the key table; any key leaves.
 */
#include <string.h>

#include "screen_parts.h"

#define KEYS_WIDTH 15
#define HALF 39

static int draw_half(struct lg_screen *s, const struct lg_help_row *rows, size_t count, int half,
                     int row);
static void draw_legend(struct lg_screen *s, int column);

void
lg_screen_help(struct lg_screen *s)
{
    static const char *const words[] = {
        "BLOCKED time the loop could not run other tasks, above the agent's threshold.",
        "%LOOP  that time as a share of the window.   N>50  steps longer than 50 ms.",
        "The viewer only reads; it never changes the worker.     See loopguard-top(1).",
    };
    struct lg_help_row rows[LG_HELP_ROWS];
    size_t count = lg_keys_help(rows);
    struct lg_canvas *c = &s->canvas;
    lg_canvas_put(c, 0, 1, LG_STYLE_TITLE, "loopguard-top " LG_VERSION " help");
    lg_canvas_right(c, 0, c->columns - 1, LG_STYLE_DIM, "any key leaves");
    int left = draw_half(s, rows, count, 0, 1);
    int right = draw_half(s, rows, count, 1, 1);
    int row = left > right ? left : right;
    row += c->rows > row + 4 ? 1 : 0;
    for (int i = 0; i < 3; i++) {
        lg_canvas_put(c, row + i, 1, LG_STYLE_NORMAL, words[i]);
    }
    if (c->columns >= LG_WIDE) {
        draw_legend(s, 2 * HALF + 2);
        if (c->rows > row + 16) {
            lg_canvas_put(c, row + 4, 1, LG_STYLE_TITLE, "COLUMNS");
            lg_screen_column_help(s, row + 5, 2, c->columns - 1);
        }
    }
    s->list[LG_PAGE_HELP] = (struct lg_list){0};
}

/* Returns the row after the last. */
static int
draw_half(struct lg_screen *s, const struct lg_help_row *rows, size_t count, int half, int row)
{
    int column = 1 + half * (HALF - 1);
    bool first = true;
    for (size_t i = 0; i < count; i++) {
        if (rows[i].column != half) {
            continue;
        }
        if (rows[i].title != NULL) {
            row += first ? 0 : 1;
            lg_canvas_put(&s->canvas, row++, column, LG_STYLE_TITLE, rows[i].title);
        }
        else {
            lg_canvas_put(&s->canvas, row, column + 1, LG_STYLE_KEY, rows[i].keys);
            lg_canvas_field(&s->canvas, row++, column + 1 + KEYS_WIDTH, HALF - KEYS_WIDTH - 1,
                            LG_STYLE_NORMAL, rows[i].text);
        }
        first = false;
    }
    return row;
}

static void
draw_legend(struct lg_screen *s, int column)
{
    static const struct {
        enum lg_style style;
        const char *sample, *what;
    } lines[] = {
        {LG_STYLE_WARNING, "61ms", "over the threshold"},
        {LG_STYLE_RED, "1.84s", "over the alarm time, 1 s"},
        {LG_STYLE_WARNING, "!BLOCKED", "the loop is blocked at this moment"},
        {LG_STYLE_ALARM, "!BLOCKED", "the same, for longer than the alarm time"},
        {LG_STYLE_DIM, " ended", "a block that ended in the last 5 seconds"},
        {LG_STYLE_WARNING, "?NO HEART", "the agent's thread is silent"},
        {LG_STYLE_BOLD, "1.27s*", "still runs"},
        {LG_STYLE_NORMAL, "~", "the row could not be read cleanly this time"},
        {LG_STYLE_NORMAL, "-", "not known (0 is a number)"},
    };
    int row = 1;
    lg_canvas_put(&s->canvas, row++, column, LG_STYLE_TITLE, "COLOURS AND MARKS");
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        lg_canvas_put(&s->canvas, row, column + 1, lines[i].style, lines[i].sample);
        lg_canvas_put(&s->canvas, row++, column + 12, LG_STYLE_NORMAL, lines[i].what);
    }
    row++;
    lg_canvas_put(&s->canvas, row++, column, LG_STYLE_TITLE, "SPARKLINE OF LAG");
    for (int i = 0; i < LG_LEVELS; i++) {
        lg_canvas_put(&s->canvas, row, column + 1 + i, LG_STYLE_BAR, s->glyphs->level[i]);
    }
    lg_canvas_put(&s->canvas, row, column + 12, LG_STYLE_NORMAL,
                  "below 12.5, 25, 50, 100, 200, 400, 800 ms, above");
}
