/*
 * canvas.c - cells in memory; see canvas.h. No state but the canvas.
 */
#include "canvas.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "format.h"

#define TEXT_MAX 1024                   /* longest printf; the widest terminal is less */

static uint32_t next_character(const char **text, unsigned *width);
static struct lg_place *place_at(struct lg_canvas *canvas, int row, int column);

int
lg_canvas_size(struct lg_canvas *canvas, int rows, int columns, bool ascii)
{
    if (rows < 1 || columns < 1) {
        rows = columns = 1;
    }
    if (rows != canvas->rows || columns != canvas->columns) {
        struct lg_place *place = calloc((size_t)rows * (size_t)columns, sizeof(*place));
        if (place == NULL) {
            return -ENOMEM;
        }
        free(canvas->place);
        canvas->place = place;
        canvas->rows = rows;
        canvas->columns = columns;
    }
    canvas->ascii = ascii;
    lg_canvas_clear(canvas);
    return 0;
}

void
lg_canvas_free(struct lg_canvas *canvas)
{
    free(canvas->place);
    *canvas = (struct lg_canvas){0};
}

void
lg_canvas_clear(struct lg_canvas *canvas)
{
    lg_canvas_clear_rows(canvas, 0, canvas->rows);
}

void
lg_canvas_clear_rows(struct lg_canvas *canvas, int from, int to)
{
    for (int row = from; row < to; row++) {
        lg_canvas_fill(canvas, row, 0, canvas->columns, LG_STYLE_NORMAL, " ");
    }
}

int
lg_canvas_put(struct lg_canvas *canvas, int row, int column, enum lg_style style, const char *text)
{
    while (*text != '\0') {
        unsigned width;
        uint32_t code = next_character(&text, &width);
        if (width == 0) {
            continue;                   /* combining: a cell holds one character */
        }
        if (canvas->ascii && code > 0x7e) {
            code = '?';
            width = 1;
        }
        struct lg_place *first = place_at(canvas, row, column);
        struct lg_place *second = width == 2 ? place_at(canvas, row, column + 1) : NULL;
        if (first != NULL) {
            /* Half a wide character at the right edge would wrap. */
            *first = (struct lg_place){width == 2 && second == NULL ? ' ' : code, style};
        }
        if (second != NULL) {
            *second = (struct lg_place){0, style};
        }
        column += (int)width;
    }
    return column;
}

int
lg_canvas_printf(struct lg_canvas *canvas, int row, int column, enum lg_style style,
                 const char *format, ...)
{
    char text[TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return lg_canvas_put(canvas, row, column, style, text);
}

int
lg_canvas_field(struct lg_canvas *canvas, int row, int column, int width, enum lg_style style,
                const char *text)
{
    char cut[TEXT_MAX];
    if (width > 0) {
        lg_canvas_put(canvas, row, column, style,
                      lg_format_cut(text, (size_t)width, cut, sizeof(cut)));
    }
    return column + width;
}

int
lg_canvas_field_right(struct lg_canvas *canvas, int row, int column, int width, enum lg_style style,
                      const char *text)
{
    int columns = (int)lg_format_columns(text);
    if (columns > width) {
        return lg_canvas_field(canvas, row, column, width, style, text);
    }
    lg_canvas_put(canvas, row, column + width - columns, style, text);
    return column + width;
}

int
lg_canvas_right(struct lg_canvas *canvas, int row, int end, enum lg_style style, const char *text)
{
    int column = end - (int)lg_format_columns(text);
    column = column < 0 ? 0 : column;
    lg_canvas_put(canvas, row, column, style, text);
    return column;
}

void
lg_canvas_fill(struct lg_canvas *canvas, int row, int from, int to, enum lg_style style,
               const char *text)
{
    unsigned width;
    uint32_t code = next_character(&text, &width);
    for (int column = from; column < to; column++) {
        struct lg_place *place = place_at(canvas, row, column);
        if (place != NULL) {
            *place = (struct lg_place){canvas->ascii && code > 0x7e ? '?' : code, style};
        }
    }
}

void
lg_canvas_restyle(struct lg_canvas *canvas, int row, int from, int to, enum lg_style style)
{
    for (int column = from; column < to; column++) {
        struct lg_place *place = place_at(canvas, row, column);
        if (place != NULL) {
            place->style = style;
        }
    }
}

int
lg_canvas_utf8(uint32_t code, char out[5])
{
    int n = 0;
    if (code < 0x80) {
        out[n++] = (char)code;
    }
    else if (code < 0x800) {
        out[n++] = (char)(0xc0 | code >> 6);
        out[n++] = (char)(0x80 | (code & 0x3f));
    }
    else if (code < 0x10000) {
        out[n++] = (char)(0xe0 | code >> 12);
        out[n++] = (char)(0x80 | (code >> 6 & 0x3f));
        out[n++] = (char)(0x80 | (code & 0x3f));
    }
    else {
        out[n++] = (char)(0xf0 | (code >> 18 & 7));
        out[n++] = (char)(0x80 | (code >> 12 & 0x3f));
        out[n++] = (char)(0x80 | (code >> 6 & 0x3f));
        out[n++] = (char)(0x80 | (code & 0x3f));
    }
    out[n] = '\0';
    return n;
}

void
lg_canvas_write(const struct lg_canvas *canvas, FILE *out)
{
    for (int row = 0; row < canvas->rows; row++) {
        const struct lg_place *line = canvas->place + (size_t)row * (size_t)canvas->columns;
        int last = canvas->columns;
        while (last > 0 && line[last - 1].code == ' ') {
            last--;
        }
        for (int column = 0; column < last; column++) {
            char utf8[5];
            if (line[column].code != 0) {
                lg_canvas_utf8(line[column].code, utf8);
                fputs(utf8, out);
            }
        }
        fputc('\n', out);
    }
}

/* The next character and how many columns it takes. Bytes that are no UTF-8
 * and control characters become '?': they must never reach a terminal. */
static uint32_t
next_character(const char **text, unsigned *width)
{
    const unsigned char *p = (const unsigned char *)*text;
    unsigned length = p[0] < 0x80 ? 1 : p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    uint32_t code = length == 1 ? p[0] : p[0] & (0x7fu >> length);
    for (unsigned i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            *text += i;
            *width = 1;
            return '?';
        }
        code = code << 6 | (p[i] & 0x3fu);
    }
    char one[5];
    memcpy(one, p, length);
    one[length] = '\0';
    *text += length;
    *width = code < 0x80 ? 1 : (unsigned)lg_format_columns(one);
    return code < ' ' || (code >= 0x7f && code < 0xa0) ? '?' : code;
}

static struct lg_place *
place_at(struct lg_canvas *canvas, int row, int column)
{
    if (row < 0 || row >= canvas->rows || column < 0 || column >= canvas->columns) {
        return NULL;
    }
    return canvas->place + (size_t)row * (size_t)canvas->columns + (size_t)column;
}
