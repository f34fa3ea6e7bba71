/*
 * screen.h - the ncurses rooms as top_main.c sees them: one door.
 *
 * Takes the terminal, runs until the user leaves or a signal comes, gives the
 * terminal back. Everything drawn comes from `top` (model.h).
 */
#ifndef LG_SCREEN_H
#define LG_SCREEN_H

struct lg_top;
struct lg_options;

/* `top` has had one lg_top_refresh(). Returns the exit status (enum lg_exit
 * of find.h). Ended by a signal: restores the terminal and dies by it again,
 * so does not return. */
int lg_screen_run(struct lg_top *top, const struct lg_options *options);

#endif
