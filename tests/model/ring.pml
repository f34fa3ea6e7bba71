/*
 * ring.pml - the slot protocol of common/lg_ring.h, checked by Spin.
 *
 *     spin -a tests/model/ring.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan -m100000
 *
 * One writer of TICKETS records in SLOTS slots of two words, killed between any
 * two stores or not at all; one reader that starts live and reads on
 * post-mortem when the writer is gone.
 *
 * What the C code leaves unordered happens in either order here: the two words
 * are stored and loaded in any order, and the odd sequence of the next record
 * may be seen before the head of the last one (later stores may pass a release
 * store). What fences and releases order stays in order. To see that the model
 * can fail, leave one of them out; Spin then finds the torn record:
 *
 *     spin -DNO_ODD ...     the writer does not mark the slot before it writes
 *     spin -DNO_RECHECK ... the reader does not look at the sequence again
 *     spin -DEARLY_EVEN ... the even sequence may overtake the second word
 */
#define SLOTS 2
#define TICKETS 5
#define BACK 1                  /* half a ring */

byte seq[SLOTS];                /* 2t+1 while ticket t is written, 2t+2 after */
byte word_a[SLOTS];             /* both t + 1 in the record of ticket t */
byte word_b[SLOTS];
byte head;
bool killed;
bool gone;                      /* the writer stores nothing any more */

#ifdef NO_ODD
#define MARK skip
#else
#define MARK seq[t % SLOTS] = 2 * t + 1
#endif
#define STORE_A word_a[t % SLOTS] = t + 1
#define STORE_B word_b[t % SLOTS] = t + 1
#define COMMIT seq[t % SLOTS] = 2 * t + 2

active proctype killer()
{
    if
    :: killed = true
    :: skip
    fi
}

active proctype writer()
{
    byte t = 0;
    {
        do
        :: t < TICKETS ->
           if
           :: head = t; MARK
           :: MARK; head = t
           fi;
           if                   /* behind the release fence, in any order */
           :: STORE_A; STORE_B; COMMIT
           :: STORE_B; STORE_A; COMMIT
#ifdef EARLY_EVEN
           :: STORE_A; COMMIT; STORE_B
#endif
           fi;
           t++
        :: else -> break
        od;
        head = t
    } unless { killed };
    gone = true
}

active proctype reader()
{
    byte next, seen, lapped, torn;
    byte h, before, after, a, b;
    bool dead, at_head;
    do
    :: dead = gone;
       h = head;
       assert(next <= h);       /* else the reader would cry damage */
       at_head = (next == h);
       if
       :: at_head && !dead -> goto again
       :: at_head && dead -> skip
       :: !at_head && h - next > SLOTS && dead ->
          lapped = lapped + h - SLOTS - next;
          next = h - SLOTS
       :: !at_head && h - next > SLOTS && !dead ->
          lapped = lapped + h - BACK - next;
          next = h - BACK
       :: else -> skip
       fi;

       before = seq[next % SLOTS];
       if
       :: a = word_a[next % SLOTS]; b = word_b[next % SLOTS]
       :: b = word_b[next % SLOTS]; a = word_a[next % SLOTS]
       fi;
#ifdef NO_RECHECK
       after = before;
#else
       after = seq[next % SLOTS];
#endif

       if
       :: before == 2 * next + 2 && after == before ->
          assert(a == next + 1 && b == next + 1);       /* never torn */
          next++;
          seen++
       :: at_head && before == 2 * next + 1 && after == before ->
          torn++;
          next++;
          break
       :: !at_head && (before > 2 * next + 2 || after > 2 * next + 2) ->
          if
          :: !dead && h > BACK && h - BACK > next ->
             lapped = lapped + h - BACK - next;
             next = h - BACK
          :: else ->
             lapped++;
             next++
          fi
       :: else ->
          assert(at_head);      /* the head never runs ahead of a slot */
          break
       fi;
       if
       :: at_head -> break      /* the last one, committed before its head */
       :: else -> skip
       fi;
again: skip
    od;
    assert(seen + lapped + torn == next);
    assert(next >= head && torn <= 1);
}
