/*
 * terminal.h - the terminal: taken, shown a canvas, read, given back as it was.
 * (Not "term.h": curses has a header of that name.)
 *
 * The only room that knows curses. Keys come from the controlling terminal, so
 * a pipe on standard input does not matter; the picture goes to standard
 * output. While the terminal is taken, what anyone writes to a stderr that is
 * a terminal is kept and printed afterwards.
 *
 * One thread and one terminal per process: signal handlers have no argument,
 * so the state they need is static in terminal.c. TERM, INT and HUP are noted and
 * the caller ends tidily; a second one, and every other signal that ends a
 * process, restores the terminal in the handler and dies by that signal.
 */
#ifndef LG_TERMINAL_H
#define LG_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

#include "canvas.h"
#include "keys.h"

struct lg_term;

struct lg_term_options {
    bool color;
    bool mouse;
    const char *program;                /* what messages call us */
};

/* Takes the terminal. On failure a negative code and in `why` what to tell
 * the user, one or two lines without the program's name. */
int lg_term_start(const struct lg_term_options *options, struct lg_term **out, char *why,
                  size_t size);

/* Gives it back, prints what stderr kept. NULL is fine. */
void lg_term_stop(struct lg_term *term);

/* The size now, asked of the terminal. */
void lg_term_size(struct lg_term *term, int *rows, int *columns);

/* Brings the canvas to the screen: only what differs from the last one. */
void lg_term_show(struct lg_term *term, const struct lg_canvas *canvas);
/* The next show draws all (^L). */
void lg_term_redraw(struct lg_term *term);

enum lg_term_event {
    LG_TERM_NOTHING,                    /* the time is over */
    LG_TERM_INPUT,                      /* lg_term_key() may have some */
    LG_TERM_SIGNAL,                     /* lg_term_signal() says which */
    LG_TERM_GONE,                       /* the terminal was closed */
};

/* Waits at most `timeout_ms` (0 = only looks). */
enum lg_term_event lg_term_wait(struct lg_term *term, int timeout_ms);

/* Next key (keys.h) or LG_KEY_NOTHING. Never waits, but for the rest of an
 * escape sequence. LG_KEY_RESIZE after the size changed. */
int lg_term_key(struct lg_term *term);
/* Where the last LG_KEY_CLICK was. */
void lg_term_click(const struct lg_term *term, int *row, int *column);

/* TERM, INT or HUP that came; 0 = none. */
int lg_term_signal(const struct lg_term *term);
/* After lg_term_stop(): dies by `signo` as if it had never been caught. */
void lg_term_die(int signo);

void lg_term_bell(struct lg_term *term);
void lg_term_mouse(struct lg_term *term, bool on);
void lg_term_suspend(struct lg_term *term);

#endif
