%% The peer: Erlang/OTP's ssh application, the stack of the exchange's own console, which does no work at all.
%% Environment: PEER_DIR has sys/ (host key), user/ (authorized_keys) and replies/, a file for each command that it
%% answers, named like the command with _ for /. PEER_PORT is where it listens.
-module(console_peer).
-export([start/0]).

start() ->
    Dir = os:getenv("PEER_DIR"),
    %% kept where no process copies them
    [persistent_term:put(filename:basename(File), reply(File)) || File <- filelib:wildcard(filename:join([Dir, "replies", "*"]))],
    {ok, _} = application:ensure_all_started(ssh),
    Options = [{system_dir, filename:join(Dir, "sys")}, {user_dir, filename:join(Dir, "user")},
               {auth_methods, "publickey"}, {parallel_login, true}, {max_sessions, 10000}, {backlog, 1024},
               {exec, {direct, fun(Line) -> {ok, element(1, answer(Line))} end}},
               {shell, fun(_, _) -> spawn(fun() -> io:setopts([{encoding, unicode}]), lines() end) end}],
    {ok, _} = ssh:daemon({127, 0, 0, 1}, list_to_integer(os:getenv("PEER_PORT")), Options),
    receive stop -> ok end.

%% Each reply twice: the bytes that exec sends as they are, and the text that a shell puts.
reply(File) ->
    {ok, Raw} = file:read_file(File),
    {Raw, unicode:characters_to_list(Raw)}.

answer(Line) ->
    Command = [case C of $/ -> $_; _ -> C end || C <- string:trim(Line)],
    persistent_term:get(Command, {<<>>, ""}).

lines() ->
    case io:get_line("admin@ds1@ecss1:/$ ") of
        Line when is_list(Line) -> io:put_chars(element(2, answer(Line))), lines();
        _ -> ok
    end.
