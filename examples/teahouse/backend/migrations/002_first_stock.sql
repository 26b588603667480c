-- The demo user is guest with the password guest; the hash is what passwords.py makes.
insert into users (name, password_hash) values ('guest', 'scrypt$16384$8$1$p1N20clAOdeCEF9KccGsmw==$mbF76N5Jmc2nMaXeKaPdgqZVOwfCEzQfh1AHgD0AZRxXTeIwj5OfDjM7Cu4xt12HWSNLGqWyRABK8sxYyjXioA==');

insert into teas (name, kind, price_cents, description) values
    ('Sencha Asatsuyu', 'green', 890, 'Steamed leaves, bright and grassy, a sweetness that stays.'),
    ('Gyokuro Yame', 'green', 2450, 'Shaded for three weeks before the picking; broth-like and soft.'),
    ('Long Jing', 'green', 1390, 'Pan-fired by hand, roasted chestnut and fresh peas.'),
    ('Darjeeling Margaret''s Hope', 'black', 1150, 'The year''s first picking: light, flowery, a little green.'),
    ('Assam Mangalam', 'black', 790, 'Strong and malty, made for milk.'),
    ('Keemun Hao Ya', 'black', 1280, 'Cocoa, orchid, a trace of smoke.'),
    ('Tie Guan Yin', 'oolong', 1490, 'Rolled leaves that open slowly; lilac and butter.'),
    ('Da Hong Pao', 'oolong', 2890, 'Rock tea from Wuyi, mineral and toasted.'),
    ('Bai Mu Dan', 'white', 990, 'Buds and first leaves, only withered: hay, melon, honey.'),
    ('Shou Pu-Erh', 'dark', 1090, 'Ripened in heaps; earth, wood and plums.'),
    ('Rooibos', 'herbal', 490, 'No tea at all, and no caffeine: vanilla and warm stone.'),
    ('Jasmine Pearls', 'scented', 1690, 'Rolled green tea scented with jasmine over five nights.');
