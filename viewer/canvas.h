/*
 * canvas.h - a page of character cells that the screens write on.
 *
 * Plain memory: no terminal and no curses, so every screen can be drawn and
 * compared in a test. terminal.c shows a canvas. Whatever falls outside is cut
 * off silently, so a screen may draw more than fits. Text is UTF-8; in an
 * ASCII canvas other characters become '?'. One thread; the owner is who
 * called lg_canvas_size() first on a zeroed struct.
 */
#ifndef LG_CANVAS_H
#define LG_CANVAS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* What a piece of text is; terminal.c decides how that looks. */
enum lg_style {
    LG_STYLE_NORMAL,
    LG_STYLE_BOLD,
    LG_STYLE_DIM,
    LG_STYLE_TITLE,
    LG_STYLE_HEADING,
    LG_STYLE_SELECTED,
    LG_STYLE_KEY,
    LG_STYLE_BAR,
    LG_STYLE_GOOD,
    LG_STYLE_WARNING,                   /* yellow: over the threshold */
    LG_STYLE_ALARM,                     /* reverse red: over the alarm time */
    LG_STYLE_RED,                       /* a number over the alarm time */
    LG_STYLE_COUNT
};

struct lg_place {                       /* one cell */
    uint32_t code;                      /* character; 0 = right half of a wide one */
    uint32_t style;
};

struct lg_canvas {                      /* zero it to start */
    int rows;
    int columns;
    bool ascii;
    struct lg_place *place;             /* [rows * columns] */
};

/* Gives the canvas a size and blanks it; 0 or -ENOMEM (then it keeps its old
 * size). */
int lg_canvas_size(struct lg_canvas *canvas, int rows, int columns, bool ascii);
void lg_canvas_free(struct lg_canvas *canvas);

/* Blanks all, or rows [from, to). */
void lg_canvas_clear(struct lg_canvas *canvas);
void lg_canvas_clear_rows(struct lg_canvas *canvas, int from, int to);

/* Writes `text` from a column on and returns the column after it (also when
 * cut). A negative column or a row outside writes nothing. */
int lg_canvas_put(struct lg_canvas *canvas, int row, int column, enum lg_style style,
                  const char *text);
int lg_canvas_printf(struct lg_canvas *canvas, int row, int column, enum lg_style style,
                     const char *format, ...) __attribute__((format(printf, 5, 6)));
/* At most `width` columns, a `~` when cut; returns column + width. */
int lg_canvas_field(struct lg_canvas *canvas, int row, int column, int width, enum lg_style style,
                    const char *text);
/* The same, right-aligned. */
int lg_canvas_field_right(struct lg_canvas *canvas, int row, int column, int width,
                          enum lg_style style, const char *text);
/* `text` ends before column `end`; returns where it starts. */
int lg_canvas_right(struct lg_canvas *canvas, int row, int end, enum lg_style style,
                    const char *text);
/* `text` repeated over [from, to). */
void lg_canvas_fill(struct lg_canvas *canvas, int row, int from, int to, enum lg_style style,
                    const char *text);
/* Changes the style of what stands in [from, to). */
void lg_canvas_restyle(struct lg_canvas *canvas, int row, int from, int to, enum lg_style style);

/* UTF-8 of a character; returns the number of bytes, at most 4. */
int lg_canvas_utf8(uint32_t code, char out[5]);

/* The rows as UTF-8 text without trailing blanks, for golden screens. */
void lg_canvas_write(const struct lg_canvas *canvas, FILE *out);

#endif
