/*
 * print_once.h - the text of --once and --batch: the overview on plain lines.
 *
 * For eyes and for grep; scripts take --json. Nothing is cut: names come last
 * on their lines. Everything printed comes from the model.
 */
#ifndef LG_PRINT_ONCE_H
#define LG_PRINT_ONCE_H

#include <stdbool.h>
#include <stdio.h>

#include "model.h"

struct lg_paint {                       /* "" when colours are off */
    const char *alarm;
    const char *warn;
    const char *dim;
    const char *bold;
    const char *off;
};

struct lg_paint lg_paint_for(bool color);

/* One worker, or the table of several with merged endpoints. */
void lg_print_once(struct lg_top *top, const struct lg_view *view, struct lg_paint paint,
                   FILE *out);
/* The events of all workers, newest first. */
void lg_print_events(struct lg_top *top, const struct lg_view *view, struct lg_paint paint,
                     FILE *out);

/* Parts that loopguard-dump prints, too. */
void lg_print_header(const char *program, struct lg_top *top, size_t worker, struct lg_paint paint,
                     FILE *out);
void lg_print_rows(struct lg_top *top, size_t worker, const struct lg_view *view, FILE *out);
void lg_print_stack(const struct lg_stack_view *stack, const char *indent, bool fold, FILE *out);
/* "BLOCKED 1.27 s in POST /x ..." or what it died in; false when neither. */
bool lg_print_blocked(struct lg_top *top, size_t worker, struct lg_paint paint, FILE *out);
/* In a sentence: "POST /x", "(task) poll". */
char *lg_print_prose(const struct lg_key *key, char *out, size_t size);
/* In a column: "POST  /x". */
char *lg_print_name(const struct lg_key *key, char *out, size_t size);

#endif
