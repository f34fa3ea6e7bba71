/*
 * glyphs.h - every character that is drawn and not ASCII, and its stand-in.
 *
 * One table, chosen once: the screens ask for a glyph by name and never know
 * which set they got. Text of the application does not come from here.
 */
#ifndef LG_GLYPHS_H
#define LG_GLYPHS_H

#include <stdbool.h>

/* X(NAME, UTF-8, ASCII) */
#define LG_GLYPHS(X) \
    X(HORIZONTAL, "─", "-") \
    X(VERTICAL, "│", "|") \
    X(TOP_LEFT, "┌", "+") \
    X(TOP_RIGHT, "┐", "+") \
    X(BOTTOM_LEFT, "└", "+") \
    X(BOTTOM_RIGHT, "┘", "+") \
    X(TICK_LEFT, "┤", "|") \
    X(TICK_DOWN, "┬", "+") \
    X(CROSS, "┼", "+") \
    X(DESCENDING, "▼", "v") \
    X(ASCENDING, "▲", "^") \
    X(POINTER, "◂", "<") \
    X(FULL, "█", "#") \
    X(SHADE, "░", ".") \
    X(UNKNOWN, ".", "?")

enum lg_glyph {
#define LG_X(name, utf8, ascii) LG_GLYPH_##name,
    LG_GLYPHS(LG_X)
#undef LG_X
        LG_GLYPH_COUNT
};

#define LG_LEVELS 8                     /* of a sparkline: 0 is the lowest line */

struct lg_glyphs {
    bool utf8;
    const char *one[LG_GLYPH_COUNT];
    const char *level[LG_LEVELS];       /* lower eighths of a character */
    const char *part[LG_LEVELS];        /* left eighths: [0] is empty */
};

/* UTF-8 when the locale in force can show it and `ascii` is false; call
 * setlocale(LC_CTYPE, "") first. Static storage. */
const struct lg_glyphs *lg_glyphs_choose(bool ascii);

#endif
