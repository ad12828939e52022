// Package lane is the wire format between the Lua front (plugin/lua), which runs in Kong's workers, and the process, over a
// unix socket of our own: <prefix>/kafka-metering.lane.socket, mode 0660. Here is the process's side of it, the side that
// reads what may be hostile, and the few things that are known of bodies with a hole.
//
// # Messages
//
// A message is a line of words, separated by one space and ended by a line feed, and for some the bytes that the line
// announces. Numbers are decimal. The worker speaks, the process answers each message but BYE with one line.
//
//	HELLO 2 <worker> <counted>                    OK 2
//	CONFIG <id> <size> <lists>  + config, lists   OK <size>  + needs
//	BATCH <number> <again> <drops> <n> <size>     OK <number>
//	  DROP <plugin> <reason> <count>
//	  + n exchanges, of size bytes together
//	BYE
//
// An answer that is not OK is ERR and a text: the message will never be taken; or, to BATCH, LATER and a text: the spool does
// not take it now, and the worker sends it again. The process closes the connection then, and when it stops. No answer within a time of the worker's choice means that the process is away.
//
// HELLO opens a connection. 2 is the version of the protocol. The worker's name is unique for its life (process id and
// start); counted is how many of its exchanges have been acknowledged, or reported as dropped, on any connection.
//
// CONFIG registers a plugin configuration, the JSON that Kong hands to the plugin, under a number of the worker's choice.
// It holds for the connection. The answer is JSON ([Needs]): which members of Kong's log the meters read, and which of a
// POST's; whether they want the body, and what is wrong with the configuration. The members of exchanges have no names:
// a worker keeps to the lists that it got first, and says on other connections which these were. Where another process
// answers with others, it registers the configuration anew for the exchanges that come.
//
// BATCH hands over n exchanges, preceded by as many DROP lines as it says: exchanges of a plugin that the worker could not
// keep, by reason. A worker has one batch under way. OK means that all events are in the spool: the worker forgets the
// batch. Without it, the worker sends the same batch again, with the same number and again = 1, on this or another
// connection, to this or another process. A process that has had the number from this worker only says OK again; another
// process looks for the exchanges' ids in the spools that it adopted.
//
// An exchange is a list, as LuaJIT's string.buffer encodes one (https://luajit.org/ext_buffer.html#serialize_format): a
// tenth of what the same costs a worker as JSON, whose numbers go through printf.
//
//	1 configuration   2 number       3 flags      4 first byte   5 delivered   6 request
//	7 type            8 encoding     9 head      10 skipped     11 tail       12 log      13… members
//
// The number counts the worker's exchanges from 1 on, those that it drops too. So every number up to a batch's last one is
// an exchange that was handed over, or reported as dropped; anything else is a gap ([Account]). The flags are letters: d,
// nginx has sent the whole response ($request_completion); b, a response with a body came from the upstream; e, its end was
// seen; s, the upstream was silent for the service's read timeout; t, the body was tapped. Then come the milliseconds from
// the request's start to the first byte of the body, or -1, and the bytes of the body that the client got; the request's
// body as far as nginx had it in memory; the response's content type and encoding as the tap saw them, and its body: the
// whole of it is the head; where it was larger than the window, skipped bytes are missing between head and tail. The log is
// a text, Kong's own as JSON; or 1 or 2, and then its members follow, in the order of the lists' Log or Calls.
// What there is none of is nil, or left out at the end.
//
// BYE says that the worker exits and has nothing left. A worker whose connection ends otherwise, and that does not come
// back, may have lost what it had queued.
//
// A worker that ends with exchanges that it could not hand over appends to <prefix>/kafka-metering.lane.lost: HELLO, and DROP
// lines for what no batch has told of; then for each batch SENT <number>, its DROP lines, and LEFT <plugin> <request id> for
// each of its exchanges. The process may have taken the batch that was sent last. One that ends says so for the next one: TAKEN
// <worker> <batch>, in <prefix>/kafka-metering.lane.taken.<start>-<pid>. A worker that goes on all the same takes another name.
package lane
